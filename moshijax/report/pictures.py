"""Images as data URLs, alone and in grids."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from moshijax.report.page import data_url, render


IMAGE_SIDE = 128  # pixels at most of an image in a grid


class Picture(NamedTuple):
    """An image, such as a grid with a name beside each of its rows."""

    title: str
    caption: str
    image: str  # as a data URL
    rows: Sequence[str] = ()


def pictures(items: Iterable[Picture]) -> Markup:
    """Images beside each other, each under its title and caption."""
    return render("pictures", items=list(items))


def png(image: UInt8[np.ndarray, "H W C"]) -> str:
    """A data URL; one channel is grey, three are red, green and blue."""
    return data_url("image/png", png_bytes(image))


def png_bytes(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A file; one channel is grey, three are red, green and blue."""
    done, data = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return data.tobytes()


def image_grid(rows: Sequence[np.ndarray], gap: int = 2) -> UInt8[np.ndarray, "H W C"]:
    """Rows of equally many images [N, H, W, C] on white, all at the largest one's size.

    Images are bytes, or floats from -1 to 1 as the models get them.
    """
    side = min(max(max(row.shape[1:3]) for row in rows), IMAGE_SIDE)
    channels = max(row.shape[-1] for row in rows)
    step = side + gap
    count = max(len(row) for row in rows)
    page = np.full((len(rows) * step - gap, count * step - gap, channels), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(_bytes(row)):
            tile = _resized(image, side)
            page[i * step : i * step + side, j * step : j * step + side] = tile
    return page


def _bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    return np.clip(np.rint((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    method = cv2.INTER_AREA if max(image.shape[:2]) > side else cv2.INTER_NEAREST
    tile = cv2.resize(image, (side, side), interpolation=method)
    return tile[..., None] if tile.ndim == 2 else tile
