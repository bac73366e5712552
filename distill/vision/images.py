"""Encoded images to bytes of pixels, and pieces of them at a model's resolution.

As in TensorFlow's pipeline of the paper: bilinear without antialiasing, half-pixel
centres, back to bytes by cutting the fraction off. An EXIF orientation is ignored, alpha
is dropped without blending, 16 bits keep the upper 8, CMYK is converted, grey is repeated
where colour is asked for.
"""

import functools
import math
import struct

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, Float32, UInt8


JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
PNG_SIZE = slice(16, 24)  # width and height, big-endian, in the header chunk
METHODS = {"rs": "cut", "ic": "cut", "rc": "window", "cc": "area"}  # by crop

cv2.setNumThreads(1)  # threads work on whole images


class CorruptImageError(ValueError):
    """The bytes of an image cannot be decoded."""


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width; JPEG and PNG tell them in their headers."""
    if data[:2] == JPEG:
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        except ValueError as error:
            raise CorruptImageError(str(error)) from error
        return int(height), int(width)
    if data[:8] == PNG and len(data) >= PNG_SIZE.stop:
        width, height = struct.unpack(">II", data[PNG_SIZE])
        return height, width
    return decode(data, 3).shape[:2]


def decode(data: bytes, channels: int) -> UInt8[np.ndarray, "H W C"]:
    """Decodes a JPEG, PNG or any other file that OpenCV reads; RGB or grey."""
    image = (_decode_jpeg if data[:2] == JPEG else _decode_other)(data, channels)
    return image.reshape(*image.shape[:2], channels)


def _decode_jpeg(data: bytes, channels: int) -> np.ndarray:
    try:
        space = simplejpeg.decode_jpeg_header(data)[2]
        if space in ("CMYK", "YCCK"):
            return _decode_other(data, channels)
        # Strict: a truncated file would otherwise be filled up with grey.
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", strict=True)
    except ValueError as error:
        raise CorruptImageError(str(error)) from error


def _decode_other(data: bytes, channels: int) -> np.ndarray:
    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    buffer = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(buffer, kind | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        raise CorruptImageError(f"not an image that OpenCV reads ({len(data)} bytes)")
    return image


def render(
    image: UInt8[np.ndarray, "H W C"],
    box: Float32[np.ndarray, "4"],
    resolution: int,
    method: str = "cut",
) -> UInt8[np.ndarray, "R R C"]:
    """Renders the piece of an image in `box` as a square.

    "cut" cuts the box out and resizes it (a fractional box is widened to whole pixels).
    "window" resizes the image and then cuts, so that pixels around the box count at its
    border; "area" does so by averaging.
    """
    if method == "cut":
        piece = image[_pixels(box[0], box[2]), _pixels(box[1], box[3])]
        pixels = cv2.resize(piece.astype(np.float32), (resolution, resolution))
    elif method == "window":
        pixels = _window(image, box, resolution)
    elif method == "area":
        pixels = _area(image, box, resolution)
    else:
        raise ValueError(f"Unknown method {method!r}; choose cut, window or area.")
    # A whole number that rounding left just under itself must not be cut to the one below.
    return (pixels + np.float32(1e-3)).astype(np.uint8).reshape(*pixels.shape[:2], image.shape[2])


def _pixels(start: np.float32, length: np.float32) -> slice:
    return slice(math.floor(start), math.ceil(start + length))


def _window(
    image: UInt8[np.ndarray, "H W C"], box: Float32[np.ndarray, "4"], resolution: int
) -> Float32[np.ndarray, "..."]:
    top, left, height, width = (float(x) for x in box)
    y, x = height / resolution, width / resolution
    # Centres of pixels are at halves: target (i + 1/2) * scale is source j + 1/2.
    matrix = np.array([[x, 0, left + x / 2 - 0.5], [0, y, top + y / 2 - 0.5]])
    return cv2.warpAffine(
        image.astype(np.float32),
        matrix,
        (resolution, resolution),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
        hint=cv2.ALGO_HINT_ACCURATE,
    )


def _area(
    image: UInt8[np.ndarray, "H W C"], box: Float32[np.ndarray, "4"], resolution: int
) -> Float32[np.ndarray, "..."]:
    """Averages the source pixels under each target pixel, by the share covered."""
    size, start, length = np.array(image.shape[:2]), box[:2].astype(float), box[2:].astype(float)
    if min(length) >= resolution:
        resized = np.rint(size * resolution / length).astype(int)
        y, x = np.rint(start * resized / size).astype(int)
        pixels = cv2.resize(image.astype(np.float32), resized[::-1], interpolation=cv2.INTER_AREA)
        return pixels[y : y + resolution, x : x + resolution]
    # OpenCV averages only when it makes an image smaller.
    rows = _shares(size[0], start[0], length[0], resolution)
    columns = _shares(size[1], start[1], length[1], resolution)
    lines = rows @ image.reshape(size[0], -1).astype(np.float32)
    return columns @ lines.reshape(resolution, size[1], -1)


@functools.lru_cache(maxsize=256)
def _shares(size: int, start: float, length: float, resolution: int) -> Float[np.ndarray, "R size"]:
    edges = start + np.arange(resolution + 1) * (length / resolution)
    edges = edges[:, None] - np.arange(size)
    covered = np.clip(edges[1:], 0, 1) - np.clip(edges[:-1], 0, 1)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
