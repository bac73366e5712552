"""Batches as a pure function of the step, read ahead in the background."""

from collections.abc import Callable, Iterator
from typing import Any

import grain


def read_ahead(batch: Callable[[int], Any], first: int, last: int, depth: int) -> Iterator[Any]:
    """batch(first), ..., batch(last) in order, up to `depth` (0: none) of them made beforehand."""
    steps = grain.MapDataset.range(first, last + 1).map(batch)
    options = grain.ReadOptions(num_threads=depth, prefetch_buffer_size=depth)
    return iter(steps.to_iter_dataset(options))
