"""Encoded images to bytes of pixels, and pieces of them at a model's resolution.

As in TensorFlow's pipeline of the paper: bilinear without antialiasing, half-pixel
centres, back to bytes by cutting the fraction off. An EXIF orientation is ignored, alpha
is dropped without blending, 16 bits keep the upper 8, CMYK is converted, grey is repeated
where colour is asked for.
"""

import functools
import math
import threading

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8

from distill.vision import header, jpeg, png
from distill.vision.header import JPEG, PNG
from moshijax.system.errors import UserError


MAX_PIXELS = 100_000_000  # 10,000 by 10,000; as floats they take 1.2 GB a thread
INKS = ("CMYK", "YCCK")
METHODS = {"rs": "cut", "ic": "cut", "rc": "window", "cc": "area"}  # by crop

cv2.setNumThreads(1)  # threads work on whole images
# What is wrong with an image is said once, by row, and not by each decoder on the terminal.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class CorruptImageError(UserError):
    """The bytes of an image cannot be decoded."""


class Scratch(threading.local):
    """Each thread's reused buffers: page faults of fresh memory cost more than a resize."""

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
    """Height and width by the header.

    Raises:
        CorruptImageError: no header of the six formats, no pixels, or too many.
    """
    size = header.size_of(data)
    if size is None:
        raise CorruptImageError(
            f"not the start of a JPEG, PNG, WebP, BMP, GIF or TIFF file ({len(data)} bytes)"
        )
    height, width = size
    if height < 1 or width < 1:
        raise CorruptImageError(f"a header of {width} by {height} pixels")
    if height * width > MAX_PIXELS:
        raise CorruptImageError(
            f"{width} by {height} pixels are more than the {MAX_PIXELS:,} that are read"
        )
    return size


def _colours(data: bytes) -> str | None:
    """The colour space of a JPEG file that simplejpeg reads."""
    if not data.startswith(JPEG):
        return None
    try:
        return simplejpeg.decode_jpeg_header(data)[2]
    except KeyError:  # an unusual subsampling, or none
        return None
    except ValueError as error:
        raise CorruptImageError(str(error)) from error


def decode(
    data: bytes, channels: int, *, reuse: bool = False, bottom: int | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Decodes a JPEG, PNG, WebP, BMP, GIF or TIFF file; RGB or grey.

    With `reuse` the pixels may be overwritten when this thread decodes the next image.
    With `bottom` rows from there on may be left out, and damage may go unnoticed.
    """
    size = size_of(data)
    colours = _colours(data)
    if colours is None or colours in INKS:
        return _decode_other(data, channels, size, inks=colours is not None)
    if bottom is not None:
        data = jpeg.upper_rows(data, bottom)
        size = size_of(data)
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


def _decode_other(
    data: bytes, channels: int, size: tuple[int, int], *, inks: bool
) -> UInt8[np.ndarray, "H W C"]:
    """Decodes by OpenCV what simplejpeg does not."""
    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    try:
        if inks:
            # OpenCV takes a damaged JPEG file for whole, and libjpeg writes to the terminal.
            simplejpeg.decode_jpeg(data, "CMYK", strict=True)
        if data.startswith(PNG):
            data = png.pixels_only(data)
        elif data.startswith(header.TIFF):
            data = header.upright(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except (ValueError, cv2.error) as error:
        raise CorruptImageError(" ".join(str(error).split())) from error
    if image is None:
        raise CorruptImageError(f"OpenCV does not read it ({len(data)} bytes)")
    if image.shape[:2] != size:
        raise CorruptImageError(f"its header says {size}, its pixels are {image.shape[:2]}")
    return image.reshape(*size, channels)


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
    # OpenCV rounds to nearest: after subtracting almost 1/2 it truncates. 0.499, not 0.5, so that
    # a whole number with a rounding error just below it stays that number.
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
