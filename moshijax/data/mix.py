"""Batches of several kinds in one run, interleaved by fixed weights."""

import pathlib
from collections.abc import Mapping

import numpy as np

from moshijax.data.batches import Batch, TrainData
from moshijax.system.errors import UserError


class Mix:
    """Training data of several kinds: which one a step has is a pure function of the step.

    With the weights audio=1, text=1 they take turns; with audio=9, text=1 every tenth step is text.
    Each kind counts its own steps, so that its data are read in the order of a run of its own.

    Raises:
        UserError: a weight that is no whole number from 1 on, or a kind without data.
    """

    def __init__(self, parts: Mapping[str, TrainData], weights: Mapping[str, int]) -> None:
        for kind, weight in weights.items():
            if not isinstance(weight, int) or weight < 1:
                raise UserError(f"weight of {kind}: {weight!r} is no whole number from 1 on.")
        if parts.keys() != weights.keys():
            raise UserError(
                f"weights are given for {sorted(weights)}, data for {sorted(parts)}: give both."
            )
        self.parts = dict(parts)
        self.period = spread(weights)
        # [steps of the period + 1]: how often each kind came before a step of the period.
        self.before = {
            kind: np.cumsum([0, *(one == kind for one in self.period)]) for kind in parts
        }

    def kind(self, step: int) -> str:
        """The kind of a step; steps count from 1."""
        return self.period[(step - 1) % len(self.period)]

    def own_step(self, step: int) -> int:
        """How many steps of its kind there were up to a step, itself included."""
        rounds, at = divmod(step - 1, len(self.period))
        before = self.before[self.kind(step)]
        return int(rounds * before[-1] + before[at + 1])

    def prepare(self, workdir: pathlib.Path) -> None:
        """Prepares each kind's data."""
        for part in self.parts.values():
            part.prepare(workdir)

    def close(self) -> None:
        """Closes each kind's data."""
        for part in self.parts.values():
            part.close()

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> Batch:
        """The step's batch of its kind."""
        return self.parts[self.kind(step)].batch(self.own_step(step), order, rows)


def spread(weights: Mapping[str, int]) -> tuple[str, ...]:
    """One period of kinds, each as often as its weight and as evenly as can be."""
    total, count = sum(weights.values()), dict.fromkeys(weights, 0)
    period = []
    for step in range(1, total + 1):
        # The kind that is furthest behind its share of the steps so far.
        behind: dict[str, int] = {k: weights[k] * step - count[k] * total for k in weights}
        kind = max(behind, key=lambda k: behind[k])
        count[kind] += 1
        period.append(kind)
    return tuple(period)
