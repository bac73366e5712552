"""Batches as a pure function of the step, read ahead in the background."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np


@runtime_checkable
class TrainData(Protocol):
    """Training batches by global step: the step is the whole state of the data."""

    batch_size: int

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> Any:
        """These rows of the step's batch (None: all) under one of many shufflings."""
        ...


@runtime_checkable
class EvalData(Protocol):
    """A fixed sequence of padded batches, each with a `mask`."""

    batch_size: int
    num_batches: int

    def batch(self, i: int, rows: np.ndarray | None) -> Any:
        """These rows of batch i."""
        ...


def read_ahead(batch: Callable[[int], Any], first: int, last: int, depth: int) -> Iterator[Any]:
    """batch(first), ..., batch(last) in order, up to `depth` (0: none) of them made beforehand."""
    steps = grain.MapDataset.range(first, last + 1).map(batch)
    options = grain.ReadOptions(num_threads=depth, prefetch_buffer_size=depth)
    return iter(steps.to_iter_dataset(options))
