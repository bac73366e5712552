"""Encoded images to bytes of pixels, and pieces of them at a model's resolution.

As in TensorFlow's pipeline of the paper: bilinear without antialiasing, half-pixel
centres, back to bytes by cutting the fraction off. An EXIF orientation is ignored, alpha
is dropped without blending, 16 bits keep the upper 8, CMYK is converted, grey is repeated
where colour is asked for.
"""

import functools
import math
import struct
import threading

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8

from distill.vision import jpeg


JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
PNG_SIZE = slice(16, 24)  # width and height, big-endian, in the header chunk
METHODS = {"rs": "cut", "ic": "cut", "rc": "window", "cc": "area"}  # by crop

cv2.setNumThreads(1)  # threads work on whole images


class CorruptImageError(ValueError):
    """The bytes of an image cannot be decoded."""


class Scratch(threading.local):
    """Each thread's memory for intermediate results: fresh pages cost more than a resize."""

    def __init__(self):
        self.buffers = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array of arbitrary content, valid until the thread asks for the name again."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = np.empty(size, dtype)
        return self.buffers[name][:size].reshape(shape)


SCRATCH = Scratch()


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width; JPEG and PNG tell them in their headers."""
    size = _jpeg_header(data)
    if size is not None:
        return size
    if data[:8] == PNG and len(data) >= PNG_SIZE.stop:
        width, height = struct.unpack(">II", data[PNG_SIZE])
        return height, width
    return _decode_other(data, 3).shape[:2]


def _jpeg_header(data: bytes) -> tuple[int, int] | None:
    """Height and width, if it is a JPEG file that simplejpeg reads."""
    if data[:2] != JPEG:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except KeyError:  # an unusual subsampling, or none
        return None
    except ValueError as error:
        raise CorruptImageError(str(error)) from error
    return None if space in ("CMYK", "YCCK") else (int(height), int(width))


def decode(
    data: bytes, channels: int, *, reuse: bool = False, bottom: int | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Decodes a JPEG, PNG or any other file that OpenCV reads; RGB or grey.

    With `reuse` the pixels may be overwritten when this thread decodes the next image.
    With `bottom` rows from there on may be left out, and damage may go unnoticed.
    """
    size = _jpeg_header(data)
    if size is None:
        return _decode_other(data, channels)
    if bottom is not None:
        data = jpeg.upper_rows(data, bottom)
        size = _jpeg_header(data) or size
    shape = (*size, channels)
    try:
        # TensorFlow's default is the fast transform too: the pixels are the same.
        return simplejpeg.decode_jpeg(
            data,
            "GRAY" if channels == 1 else "RGB",
            fastdct=True,
            buffer=SCRATCH.array("pixels", shape, np.uint8) if reuse else None,
            strict=bottom is None,  # or else the rest of a truncated file is grey
        )
    except ValueError as error:
        raise CorruptImageError(str(error)) from error


def _decode_other(data: bytes, channels: int) -> UInt8[np.ndarray, "H W C"]:
    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    buffer = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(buffer, kind | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        raise CorruptImageError(f"not an image that OpenCV reads ({len(data)} bytes)")
    return image.reshape(*image.shape[:2], channels)


def render(
    image: UInt8[np.ndarray, "H W C"],
    box: Float32[np.ndarray, "4"],
    resolution: int,
    method: str = "cut",
    flip: bool = False,
    out: UInt8[np.ndarray, "R R C"] | None = None,
) -> UInt8[np.ndarray, "R R C"]:
    """Renders the piece of an image in `box` as a square, into `out` if that is given.

    "cut" cuts the box out and resizes it (a fractional box is widened to whole pixels).
    "window" resizes the image and then cuts, so that pixels around the box count at its
    border; "area" does so by averaging.
    """
    if out is None:
        out = np.empty((resolution, resolution, image.shape[2]), np.uint8)
    if method == "cut":
        piece = image[_pixels(box[0], box[2]), _pixels(box[1], box[3])]
        target = SCRATCH.array("target", out.shape, np.float32)
        pixels = cv2.resize(_floats(piece), (resolution, resolution), dst=target)
    elif method == "window":
        pixels = _window(_floats(image), box, resolution)
    elif method == "area":
        pixels = _area(_floats(image), box, resolution)
    else:
        raise ValueError(f"Unknown method {method!r}; choose cut, window or area.")
    # OpenCV rounds; less by nearly a half that cuts the fraction off, and leaves a whole
    # number that arithmetic brought just under itself where it was.
    cv2.convertScaleAbs(pixels, dst=out, alpha=1, beta=-0.499)
    if flip:
        cv2.flip(out, 1, dst=out)
    return out


def _floats(image: UInt8[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H W C"]:
    floats = SCRATCH.array("image", image.shape, np.float32)
    np.copyto(floats, image)
    return floats


def _pixels(start: np.float32, length: np.float32) -> slice:
    return slice(math.floor(start), math.ceil(start + length))


def _window(
    image: Float32[np.ndarray, "H W C"], box: Float32[np.ndarray, "4"], resolution: int
) -> Float32[np.ndarray, "..."]:
    top, left, height, width = (float(x) for x in box)
    y, x = height / resolution, width / resolution
    # Centres of pixels are at halves: target (i + 1/2) * scale is source j + 1/2.
    matrix = np.array([[x, 0, left + x / 2 - 0.5], [0, y, top + y / 2 - 0.5]])
    return cv2.warpAffine(
        image,
        matrix,
        (resolution, resolution),
        dst=SCRATCH.array("target", (resolution, resolution, image.shape[2]), np.float32),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
        hint=cv2.ALGO_HINT_ACCURATE,
    )


def _area(
    image: Float32[np.ndarray, "H W C"], box: Float32[np.ndarray, "4"], resolution: int
) -> Float32[np.ndarray, "..."]:
    """Averages the source pixels under each target pixel, by the share covered."""
    rows, columns, _ = image.shape
    top, left, height, width = (float(x) for x in box)
    if min(height, width) >= resolution:
        resized = round(rows * resolution / height), round(columns * resolution / width)
        y, x = round(top * resized[0] / rows), round(left * resized[1] / columns)
        target = SCRATCH.array("target", (*resized, image.shape[2]), np.float32)
        pixels = cv2.resize(image, resized[::-1], dst=target, interpolation=cv2.INTER_AREA)
        return pixels[y : y + resolution, x : x + resolution]
    # OpenCV averages only when it makes an image smaller.
    lines = _shares(rows, top, height, resolution) @ image.reshape(rows, -1)
    lines = lines.reshape(resolution, columns, -1)
    return _shares(columns, left, width, resolution) @ lines


@functools.lru_cache(maxsize=256)
def _shares(
    size: int, start: float, length: float, resolution: int
) -> Float32[np.ndarray, "R size"]:
    edges = start + np.arange(resolution + 1) * (length / resolution)
    edges = edges[:, None] - np.arange(size)
    covered = np.clip(edges[1:], 0, 1) - np.clip(edges[:-1], 0, 1)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
