"""Boxes of crops in pixels of the original image, for a whole batch at a time.

Inception crops follow TensorFlow's `sample_distorted_bounding_box` (aspect uniform, at
least 5% of the area, whole image after 100 attempts); "rrc" is PyTorch's
RandomResizedCrop instead (aspect log-uniform, at least 8%, centre after 10 attempts).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64


FIXED = ("rs", "cc")  # crops without randomness
MARGIN = 160 / 128  # mild and central crops are cut from an image this much larger
ASPECT = (3 / 4, 4 / 3)
TF_AREA, TF_ATTEMPTS = (0.05, 1.0), 100
RRC_AREA, RRC_ATTEMPTS = (0.08, 1.0), 10

Generators = Callable[[int], np.random.Generator]  # by attempt


class Sampler:
    """Samples boxes for some rows of a global batch."""

    def __init__(
        self,
        sizes: Int[np.ndarray, "B 2"],
        rows: Int[np.ndarray, " B"],
        batch_size: int,
        resolution: int,
        inception: str = "tf",
        margin: float = MARGIN,
    ):
        if inception not in ("tf", "rrc"):
            raise ValueError(f"Unknown inception crop {inception!r}; choose tf or rrc.")
        if len(rows) and not (rows.min() >= 0 and rows.max() < batch_size):
            raise ValueError(
                f"Rows {rows.min()} to {rows.max()} are not of a batch of {batch_size}."
            )
        self.sizes = sizes.astype(np.int64)
        self.rows = rows
        self.batch_size = batch_size
        self.resolution = resolution
        self.inception = inception
        self.margin = margin

    def boxes(self, crop: str, generators: Generators) -> Float32[np.ndarray, "B 4"]:
        """The boxes of one kind of crop, one for each row."""
        if crop == "rs":
            return whole(self.sizes)
        if crop == "cc":
            return central(self.sizes, self.resolution, self.margin)
        if crop == "rc":
            return mild(self.sizes, self._draw(generators(1), 2), self.resolution, self.margin)
        if crop == "ic":
            return self._inception(generators)
        raise ValueError(f"Unknown crop {crop!r}; choose rs, cc, rc or ic.")

    def _draw(self, generator: np.random.Generator, count: int) -> Float[np.ndarray, "B n"]:
        return generator.random((self.batch_size, count), np.float32)[self.rows]

    def _inception(self, generators: Generators) -> Float32[np.ndarray, "B 4"]:
        """Tries again for the rows whose attempt did not fit."""
        attempt = tf_attempt if self.inception == "tf" else rrc_attempt
        limit = TF_ATTEMPTS if self.inception == "tf" else RRC_ATTEMPTS
        boxes = whole(self.sizes) if self.inception == "tf" else rrc_fallback(self.sizes)
        left = np.arange(len(boxes))
        for number in range(1, limit + 1):
            if not len(left):
                break
            tried, fits = attempt(self.sizes[left], self._draw(generators(number), 4)[left])
            boxes[left[fits]] = tried[fits]
            left = left[~fits]
        return boxes


def whole(sizes: Int64[np.ndarray, "B 2"]) -> Float32[np.ndarray, "B 4"]:
    """The whole image."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.float32)


def central(
    sizes: Int64[np.ndarray, "B 2"], resolution: int, margin: float
) -> Float32[np.ndarray, "B 4"]:
    """The centre of the image whose smaller side is resized to `margin` resolutions."""
    smaller = round(resolution * margin)
    resized = np.rint(sizes * (smaller / sizes.min(axis=1, keepdims=True)))
    offset = (resized - resolution) // 2
    scale = sizes / resized
    return np.concatenate([offset * scale, resolution * scale], axis=1).astype(np.float32)


def mild(
    sizes: Int64[np.ndarray, "B 2"],
    uniform: Float[np.ndarray, "B 2"],
    resolution: int,
    margin: float,
) -> Float32[np.ndarray, "B 4"]:
    """A random crop of the image resized, without its aspect, to a square."""
    square = round(resolution * margin)
    offset = np.floor(uniform.astype(np.float64) * (square - resolution + 1))
    scale = sizes / square
    return np.concatenate([offset * scale, resolution * scale], axis=1).astype(np.float32)


def tf_attempt(
    sizes: Int64[np.ndarray, "B 2"], uniform: Float32[np.ndarray, "B 4"]
) -> tuple[Float32[np.ndarray, "B 4"], Bool[np.ndarray, " B"]]:
    """One attempt of TensorFlow's crop, in its single precision; also which ones fit.

    The largest height leaves a width within the image. Offsets stay below the free space,
    so that a crop smaller than the image never touches its lower or right border.
    """
    rows, columns = sizes.T
    low, high = np.float32(ASPECT[0]), np.float32(ASPECT[1])
    aspect = uniform[:, 0] * (high - low) + low
    area = (rows * columns).astype(np.float32)
    smallest, largest = np.float32(TF_AREA[0]) * area, np.float32(TF_AREA[1]) * area

    least, most = _round(np.sqrt(smallest / aspect)), _round(np.sqrt(largest / aspect))
    limit = ((columns + 0.5 - 1e-7) / aspect).astype(np.int64)
    limit -= _round(limit * aspect) > columns
    most = np.where(_round(most * aspect) > columns, limit, most)
    most = np.minimum(most, rows)
    least = np.minimum(least, most)
    height = least + _integer(uniform[:, 1], most - least + 1)

    width = _round(height * aspect)
    height = height + (width * height < smallest)  # rounding may miss the bounds by a row
    width = _round(height * aspect)
    height = height - (width * height > largest)
    width = _round(height * aspect)
    fits = (width * height >= smallest) & (width * height <= largest)
    fits &= (width > 0) & (width <= columns) & (height > 0) & (height <= rows)

    top = _integer(uniform[:, 2], np.maximum(rows - height, 1))
    left = _integer(uniform[:, 3], np.maximum(columns - width, 1))
    return np.stack([top, left, height, width], axis=1).astype(np.float32), fits


def rrc_attempt(
    sizes: Int64[np.ndarray, "B 2"], uniform: Float32[np.ndarray, "B 4"]
) -> tuple[Float32[np.ndarray, "B 4"], Bool[np.ndarray, " B"]]:
    """One attempt of PyTorch's crop; also which ones fit."""
    rows, columns = sizes.T
    draws = uniform.astype(np.float64)
    area = rows * columns * (RRC_AREA[0] + draws[:, 0] * (RRC_AREA[1] - RRC_AREA[0]))
    low, high = np.log(ASPECT)
    aspect = np.exp(low + draws[:, 1] * (high - low))
    width, height = _round(np.sqrt(area * aspect)), _round(np.sqrt(area / aspect))
    fits = (width > 0) & (width <= columns) & (height > 0) & (height <= rows)
    top = _integer(draws[:, 2], np.maximum(rows - height + 1, 1))
    left = _integer(draws[:, 3], np.maximum(columns - width + 1, 1))
    return np.stack([top, left, height, width], axis=1).astype(np.float32), fits


def rrc_fallback(sizes: Int64[np.ndarray, "B 2"]) -> Float32[np.ndarray, "B 4"]:
    """The central crop of the nearest permitted aspect."""
    rows, columns = sizes.T
    width = np.minimum(columns, _round(rows * ASPECT[1]))
    height = np.minimum(rows, _round(columns / ASPECT[0]))
    box = [(rows - height) // 2, (columns - width) // 2, height, width]
    return np.stack(box, axis=1).astype(np.float32)


def _round(x: Float[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
    return np.rint(x).astype(np.int64)  # half to even, as lrint and Python


def _integer(
    uniform: Float[np.ndarray, " B"], count: Int64[np.ndarray, " B"]
) -> Int64[np.ndarray, " B"]:
    """A uniform integer below `count`, which float64 keeps below it."""
    return (uniform.astype(np.float64) * count).astype(np.int64)
