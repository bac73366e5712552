"""Batches as a pure function of the step, read ahead in the background."""

from collections.abc import Callable, Generator
from typing import TypeVar

import grain


Batch = TypeVar("Batch")


def read_ahead(
    batch: Callable[[int], Batch], first: int, last: int, depth: int
) -> Generator[Batch]:
    """batch(first), ..., batch(last) in order, up to `depth` (0: none) of them made beforehand.

    Closed, it leaves no thread behind.
    """
    steps = grain.MapDataset.range(first, last + 1).map(batch)
    options = grain.ReadOptions(num_threads=depth, prefetch_buffer_size=depth)
    batches = iter(steps.to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()
