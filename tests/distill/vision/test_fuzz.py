"""Damaged images: each is decoded as its header says or refused, without a word of a decoder."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from distill.vision import header, images


CASES = 10_000
FORMS = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
)
KINDS = {"JPEG": "RGB L CMYK", "PNG": "RGB L RGBA LA P 1 I;16", "GIF": "P L", "BMP": "RGB L P"}
SHAPE = (9, 13)


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(mode):
    noise = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    return Image.fromarray(noise).convert(mode)


def make_seeds():
    """Every format in every kind of pixels, some turned by EXIF, some of several frames."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for form, options in FORMS:
        for mode in KINDS.get(form, "RGB L RGBA").split():
            yield encode(picture(mode), form, **options)
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield encode(picture("RGB"), form, exif=exif)
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [picture("L").convert("RGB")]
        yield encode(picture("RGB"), form, save_all=True, append_images=frames)


SEEDS = list(make_seeds())


def changed(draw, data):
    """A file with some bytes changed, near its start more often, and perhaps cut short."""
    data = bytearray(data)
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        end = min(len(data), draw.choice([40, len(data)]))
        data[draw.randrange(end)] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
    if draw.random() < 0.3:
        data = data[: draw.randrange(len(data))]
    return bytes(data)


def test_undamaged_files_are_all_decoded():
    for data in SEEDS:
        for channels in (1, 3):
            assert images.decode(data, channels).shape == (*SHAPE, channels)
        assert images.size_of(data) == SHAPE


def test_ten_thousand_damaged_files_are_decoded_or_refused(capfd):
    draw, refused = random.Random(0), 0
    for _ in range(CASES):
        data, channels = changed(draw, draw.choice(SEEDS)), draw.choice([1, 3])
        try:
            size = images.size_of(data)
            pixels = images.decode(data, channels)
        except images.CorruptImageError:
            refused += 1
        else:
            assert pixels.shape == (*size, channels)
    assert CASES / 10 < refused < CASES * 9 / 10
    assert capfd.readouterr() == ("", "")


def test_png_headers_with_a_checksum_that_fits():
    draw, files = random.Random(1), [data for data in SEEDS if data.startswith(images.PNG)]
    for _ in range(1000):
        data = bytearray(draw.choice(files))
        data[16 + draw.randrange(13)] = draw.choice([0, 1, 2, 255])
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        with contextlib.suppress(images.CorruptImageError):
            assert images.decode(bytes(data), 3).shape == (*images.size_of(bytes(data)), 3)


def test_headers_of_noise_are_refused():
    draw = random.Random(1)
    magics = [*header.FORMATS, b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L"]
    for _ in range(3000):
        with contextlib.suppress(images.CorruptImageError):
            images.decode(draw.choice(magics) + draw.randbytes(draw.randrange(60)), 3)


def test_a_tiff_is_not_turned_either():
    exif = Image.Exif()
    plain = images.decode(encode(picture("RGB"), "TIFF"), 3)
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        pixels = images.decode(encode(picture("RGB"), "TIFF", exif=exif), 3)
        np.testing.assert_array_equal(pixels, plain)
