"""Data as the training loop reads them: batches by number, each a pure function of it."""

import pathlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike, PyTree


# Arrays and numbers by name, nested.
Batch = PyTree[ArrayLike]


@runtime_checkable
class TrainData(Protocol):
    """Training batches by global step: the step is the whole state of the data."""

    def kind(self, step: int) -> str:
        """The kind of the step's batch: which compiled update takes it. Steps count from 1."""
        ...

    def prepare(self, workdir: pathlib.Path) -> None:
        """Makes what is kept in the work directory, once that is the run's own."""
        ...

    def close(self) -> None:
        """Gives back what was opened, at the end of the run."""
        ...

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> Batch:
        """These rows of the step's batch (None: all) under one of many shufflings."""
        ...


@runtime_checkable
class EvalData(Protocol):
    """A fixed sequence of batches, each with a `mask` [B] that is 0 where a row is padding."""

    batch_size: int
    num_batches: int

    def batch(self, number: int, rows: np.ndarray | None) -> Batch:
        """These rows of a batch."""
        ...
