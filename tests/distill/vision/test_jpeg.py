import cv2
import numpy as np
import pytest
import simplejpeg

from distill.vision import images, jpeg


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1)


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("size", [(100, 37), (64, 90)])
def test_upper_rows_decode_as_those_of_the_whole_file(subsampling, size):
    data = simplejpeg.encode_jpeg(picture(*size), quality=90, colorsubsampling=subsampling)
    whole = images.decode(data, 3)
    shorter = 0
    for bottom in range(1, size[0] + 1):
        part = images.decode(data, 3, bottom=bottom)
        np.testing.assert_array_equal(part[:bottom], whole[:bottom])
        shorter += len(part) < len(whole)
    assert shorter >= size[0] - 20


def test_upper_rows_of_grey_files():
    grey = np.ascontiguousarray(picture(64, 40)[..., :1])
    data = simplejpeg.encode_jpeg(grey, colorspace="GRAY")
    part = images.decode(data, 1, bottom=20)
    np.testing.assert_array_equal(part[:20], images.decode(data, 1)[:20])
    assert part.shape == (32, 40, 1)


def test_files_whose_rows_are_not_in_order_are_left_alone():
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    progressive = cv2.imencode(".jpg", picture(100, 40), flags)[1].tobytes()
    assert jpeg.upper_rows(progressive, 8) is progressive


def test_files_of_taller_blocks_are_left_alone():
    data = bytearray(simplejpeg.encode_jpeg(picture(100, 40), colorsubsampling="420"))
    sampling = data.index(b"\xff\xc0") + 11
    assert data[sampling] == 0x22
    assert len(jpeg.upper_rows(bytes(data), 8)) == len(data)
    assert jpeg.upper_rows(bytes(data), 8) != data
    data[sampling] = 0x14  # four rows of luma blocks to one of chroma
    assert jpeg.upper_rows(bytes(data), 8) == data


def test_nothing_is_gained_near_the_lower_border():
    data = simplejpeg.encode_jpeg(picture(100, 40))
    assert jpeg.upper_rows(data, 96) is data
    assert jpeg.upper_rows(data, 95) is not data


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00\x11\x08", b"\xff" * 40])
def test_what_is_no_whole_header_is_left_alone(data):
    assert jpeg.upper_rows(data, 8) is data
