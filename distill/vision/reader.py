"""Reads and decodes rows of a data set; what to do with corrupt ones."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from absl import logging
from jaxtyping import UInt8

from distill.vision import images
from distill.vision.sources import Row, Source
from moshijax.system.errors import UserError


ON_CORRUPT = ("skip", "stop")
T = TypeVar("T")
U = TypeVar("U")
LOCK = threading.Lock()  # guards what was logged


@functools.cache
def _logged(name: str) -> set[int]:
    """Corrupt rows of a set of images that were logged, by any reader of this process."""
    return set()


class Item(NamedTuple):
    """A row that was read, and its height and width."""

    index: int
    row: Row
    size: tuple[int, int]


class Reader:
    """Reads rows; a corrupt one is an error, or it is counted and replaced.

    The next readable row takes its place; after the last row comes the first.
    """

    def __init__(
        self, source: Source, on_corrupt: str, channels: int | None = None, threads: int = 1
    ):
        if on_corrupt not in ON_CORRUPT:
            raise UserError(f"on_corrupt is {on_corrupt!r}; choose skip or stop.")
        self.source = source
        self.channels = channels or source.channels
        self.corrupt: set[int] = set()
        self._intact = np.zeros(len(source), bool)
        self._skip = on_corrupt == "skip"
        # Decoding and resizing release Python's GIL, so threads run in parallel.
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(self, function: Callable[[T], U], rows: Iterable[T]) -> list[U]:
        """Maps over rows, on this reader's threads."""
        pool = self._pool
        return list(map(function, rows) if pool is None else pool.map(function, rows))

    def close(self) -> None:
        """Ends this reader's threads; later reads run on the caller's thread."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def read(self, index: int) -> Item:
        """The row, or the next one whose header is readable."""
        found = (self.try_read(number) for number in self._from(index))
        item = next((item for item in found if item is not None), None)
        if item is None:
            raise UserError(f"Not one image of {self.source.name} is readable.")
        return item

    def decode(
        self, item: Item, bottom: int | None = None
    ) -> tuple[Item, UInt8[np.ndarray, "H W C"]]:
        """The row's pixels, or those of the next row that decodes; also returns that row.

        Pixels below `bottom` are not needed. They are left out once the image has been decoded
        whole, which shows that it is intact.
        """
        if self._intact[item.index] and isinstance(item.row.image, bytes):
            return item, images.decode(item.row.image, self.channels, reuse=True, bottom=bottom)
        for number in self._from(item.index):
            used = item if number == item.index else self.try_read(number)
            pixels = None if used is None else self.pixels(used)
            if used is not None and pixels is not None:
                return used, pixels
        raise UserError(f"Not one image of {self.source.name} can be decoded.")

    def try_read(self, index: int) -> Item | None:
        """This very row, None if its header is corrupt."""
        try:
            row = self.source[index]
        except (FileNotFoundError, PermissionError) as error:
            return self._note(index, error)
        if not isinstance(row.image, bytes):
            return Item(index, row, row.image.shape[:2])
        try:
            return Item(index, row, images.size_of(row.image))
        except images.CorruptImageError as error:
            return self._note(index, error)

    def pixels(self, item: Item) -> UInt8[np.ndarray, "H W C"] | None:
        """The pixels of this very row, None if it is corrupt.

        They are valid until this thread decodes its next row.
        """
        image = item.row.image
        if not isinstance(image, bytes):
            grey = image.shape[2] == 1 < self.channels
            return np.repeat(image, self.channels, axis=2) if grey else image
        try:
            pixels = images.decode(image, self.channels, reuse=True)
        except images.CorruptImageError as error:
            return self._note(item.index, error)
        self._intact[item.index] = True
        return pixels

    def _from(self, index: int) -> Iterator[int]:
        return ((index + k) % len(self.source) for k in range(len(self.source)))

    def _note(self, index: int, error: Exception) -> None:
        if not self._skip:
            raise images.CorruptImageError(
                f"{self.source.where(index)} is corrupt ({error}); "
                "repair it or set on_corrupt to skip."
            ) from error
        with LOCK:
            self.corrupt.add(index)
            logged = _logged(self.source.name)
            known, first = index in logged, not logged
            logged.add(index)
        if known:
            return
        # A warning for each of many rows would bury all other output.
        log = logging.warning if first else logging.info
        more = "; more of them are counted at the end" if first else ""
        log("%s is corrupt (%s): skipped%s.", self.source.where(index), error, more)

    def tell_corrupt(self) -> None:
        """Logs how many rows were skipped, if more than the one that was logged by itself."""
        if len(self.corrupt) > 1:
            logging.warning(
                "%d of %d rows of %s are corrupt and were skipped.",
                len(self.corrupt), len(self.source), self.source.name,
            )  # fmt: skip
