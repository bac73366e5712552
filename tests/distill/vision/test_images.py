import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from distill.vision import images


def picture(height=60, width=80, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def encoded(image, suffix, *flags):
    channels = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    return cv2.imencode(suffix, channels, flags)[1].tobytes()


def bilinear(image, box, resolution, border):
    """Samples at half-pixel centres, inside of `border` (top, left, bottom, right)."""
    out = image.astype(np.float64)
    for axis in (0, 1):
        scale = box[2 + axis] / resolution
        at = box[axis] + (np.arange(resolution) + 0.5) * scale - 0.5
        at = np.clip(at, border[axis], border[2 + axis] - 1)
        low = np.floor(at).astype(int)
        share = np.expand_dims(at - low, (1, 2) if axis == 0 else (0, 2))
        high = np.minimum(low + 1, border[2 + axis] - 1)
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    return out


def close(pixels, reference):
    """Bytes are the reference without its fraction, but for arithmetic at whole numbers."""
    difference = pixels.astype(int) - np.floor(reference + 1e-3).astype(int)
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.005


@pytest.mark.parametrize("box", [(5, 7, 40, 50), (0, 0, 60, 80), (31, 50, 12, 9)])
def test_a_cut_is_resized_within_itself(box):
    image = picture()
    border = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    pixels = images.render(image, np.float32(box), 24)
    close(pixels, bilinear(image, box, 24, border))


@pytest.mark.parametrize("box", [(5.25, 7.5, 40, 50.2), (0, 0, 48, 64), (31, 50, 12, 9)])
def test_a_window_is_cut_out_of_the_resized_image(box):
    image = picture()
    pixels = images.render(image, np.float32(box), 24, "window")
    close(pixels, bilinear(image, box, 24, (0, 0, 60, 80)))


def test_cut_and_window_differ_at_the_border_of_enlarged_crops():
    image, box = picture(), np.float32([10, 10, 8, 8])
    cut, window = (images.render(image, box, 32, method) for method in ("cut", "window"))
    np.testing.assert_array_equal(cut[4:-4, 4:-4], window[4:-4, 4:-4])
    assert np.any(cut != window)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [24, 40, 100])
def test_area_averages_the_pixels_covered(channels, resolution):
    image = picture()[..., :channels]
    whole = round(resolution * 1.25), round(resolution * 1.25 * 80 / 60)
    fine = image.astype(float)
    for axis, (size, target) in enumerate(zip((60, 80), whole, strict=True)):
        fine = np.repeat(fine, target, axis).reshape(
            *fine.shape[:axis], target, size, *fine.shape[axis + 1 :]
        )
        fine = fine.mean(axis=axis + 1)
    scale = np.array([60, 80]) / whole
    corner = (np.array(whole) - resolution) // 2
    box = np.concatenate([corner * scale, resolution * scale]).astype(np.float32)
    y, x = corner
    expected = fine[y : y + resolution, x : x + resolution]
    close(images.render(image, box, resolution, "area"), expected)


@pytest.mark.parametrize("method", ["cut", "window", "area"])
@pytest.mark.parametrize("channels", [1, 3])
def test_flips_mirror_columns_and_out_is_written(method, channels):
    image = np.ascontiguousarray(picture()[..., :channels])
    box = np.float32([6, 8, 48, 64])
    plain = images.render(image, box, 32, method)
    out = np.zeros((2, 32, 32, channels), np.uint8)
    images.render(image, box, 32, method, True, out[1])
    np.testing.assert_array_equal(out[1], plain[:, ::-1])
    assert not out[0].any()


@pytest.mark.parametrize("method", ["cut", "window", "area"])
@pytest.mark.parametrize("level", [0, 1, 200, 255])
def test_even_colour_stays_what_it_is(method, level):
    image = np.full((33, 47, 3), level, np.uint8)
    for resolution in (13, 64):
        pixels = images.render(image, np.float32([3, 5, 21, 23]), resolution, method)
        assert np.all(pixels == level)


def test_jpeg_decodes_as_by_the_fast_transform():
    data = simplejpeg.encode_jpeg(picture(), quality=90)
    image = images.decode(data, 3)
    np.testing.assert_array_equal(image, simplejpeg.decode_jpeg(data, fastdct=True))
    assert images.size_of(data) == (60, 80)
    assert np.abs(image.astype(int) - picture()).mean() < 6


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_other_files_decode_as_rgb(suffix):
    data = encoded(picture(), suffix, *([cv2.IMWRITE_WEBP_QUALITY, 101] * (suffix == ".webp")))
    np.testing.assert_array_equal(images.decode(data, 3), picture())
    assert images.size_of(data) == (60, 80)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grey_is_repeated_for_colour_models(suffix):
    grey = picture()[..., 0]
    data = encoded(grey, suffix)
    one, three = images.decode(data, 1), images.decode(data, 3)
    assert one.shape == (60, 80, 1)
    np.testing.assert_array_equal(three, np.repeat(one, 3, axis=2))
    assert images.decode(encoded(picture(), suffix), 1).shape == (60, 80, 1)


def test_alpha_is_dropped_without_blending():
    alpha = np.random.default_rng(1).integers(0, 256, (60, 80, 1), dtype=np.uint8)
    data = encoded(np.concatenate([picture()[..., ::-1], alpha], axis=2), ".png")
    np.testing.assert_array_equal(images.decode(data, 3), picture())


def test_16_bits_keep_the_upper_8():
    deep = picture().astype(np.uint16) * 256 + 200
    np.testing.assert_array_equal(images.decode(encoded(deep, ".png"), 3), picture())


def test_an_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    for name in ("a.jpg", "a.png"):
        Image.fromarray(picture()).save(tmp_path / name, exif=exif)
        data = (tmp_path / name).read_bytes()
        assert images.decode(data, 3).shape == (60, 80, 3)
        assert images.size_of(data) == (60, 80)


def test_cmyk_is_converted(tmp_path):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    assert images.size_of(data) == (60, 80)
    assert np.abs(images.decode(data, 3).astype(int) - picture()).mean() < 6
    assert images.decode(data, 1).shape == (60, 80, 1)


def truncated_png():
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 80, 60, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return images.PNG + header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        b"\xff\xd8 no image either",
        simplejpeg.encode_jpeg(picture())[:700],
        truncated_png(),
    ],
)
def test_corrupt_files_are_an_error(data):
    with pytest.raises(images.CorruptImageError):
        images.decode(data, 3)


def test_sizes_of_corrupt_headers_are_an_error():
    for data in (b"", b"no image", b"\xff\xd8\xff\xe0"):
        with pytest.raises(images.CorruptImageError):
            images.size_of(data)


def test_reused_memory_is_overwritten_by_the_next_image():
    first = images.decode(simplejpeg.encode_jpeg(picture(seed=1)), 3, reuse=True)
    kept = first.copy()
    images.decode(simplejpeg.encode_jpeg(picture(seed=2)), 3)
    np.testing.assert_array_equal(first, kept)
    images.decode(simplejpeg.encode_jpeg(picture(seed=2)), 3, reuse=True)
    assert np.any(first != kept)


def test_unknown_methods_are_named():
    with pytest.raises(ValueError, match="Unknown method 'bicubic'; choose cut, window or area"):
        images.render(picture(), np.float32([0, 0, 8, 8]), 8, "bicubic")
