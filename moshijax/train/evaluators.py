"""Evaluation by sums over a held-out set: padded, masked, on any mesh."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from moshijax import shard
from moshijax.data.batches import EvalData
from moshijax.system.errors import UserError
from moshijax.train.feed import read_ahead
from moshijax.train.program import within
from moshijax.train.task import Evaluator
from moshijax.train.values import Figure, Sound, Value


Sums = TypeVar("Sums")


@runtime_checkable
class Summing(Protocol[Sums]):
    """What is added up over a set, and what the sums mean."""

    def evaluate(
        self, state: PyTree[jax.Array], frozen: PyTree[jax.Array], batch: PyTree[jax.Array]
    ) -> Sums:
        """Sums that add up over batches."""
        ...

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Metrics from the sums of a whole set."""
        ...


class SetSums:
    """Evaluates on one set.

    Args:
        task: says what the sums mean.
        measure: its `evaluate`, compiled: one function for all sets.
        data: the set, its last batch padded.
    """

    def __init__(self, task: Summing[Sums], measure: Callable[..., Sums], data: EvalData) -> None:
        self.task, self.measure, self.data = task, measure, data

    def __call__(
        self, state: PyTree[jax.Array], frozen: PyTree[jax.Array], key: jax.Array, mesh: Mesh
    ) -> Iterator[tuple[str, float]]:
        """Yields the metrics of the whole set."""
        del key
        data, sums = self.data, None
        rows = shard.local_rows(data.batch_size, mesh)
        ahead = read_ahead(lambda i: data.batch(i, rows), 0, data.num_batches - 1, 2)
        with closing(ahead) as batches:
            for batch in batches:
                placed = shard.to_mesh(batch, data.batch_size, mesh)
                new = self.measure(state, frozen, placed)
                sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
        yield from self.task.summarize(jax.device_get(sums)).items()


def sums_over(
    task: Summing, sets: Mapping[str, EvalData], mesh: shard.AnyMesh
) -> dict[str, Evaluator]:
    """An evaluator for each set, whose batches divide among the devices (`shard.fill_up`)."""
    whole = NamedSharding(mesh, P())  # Replicated: every process reads the sums.
    measure = jax.jit(within(mesh, task.evaluate), out_shardings=whole)
    return {name: SetSums(task, measure, data) for name, data in sets.items()}


def evaluate(
    evaluators: Mapping[str, Evaluator],
    state: PyTree[jax.Array],
    frozen: PyTree[jax.Array],
    key: jax.Array,
    mesh: Mesh,
) -> Iterator[tuple[str, Value]]:
    """All values of all evaluators, named `set/metric`; each has randomness of its own.

    Raises:
        UserError: an evaluator yields two values of one name.
    """
    for name, evaluator in evaluators.items():
        own, seen = jax.random.fold_in(key, zlib.crc32(name.encode())), set()
        for metric, value in evaluator(state, frozen, own, mesh):
            if metric in seen:
                raise UserError(
                    f"the evaluation {name} yields two values called {metric!r}: one of them "
                    "needs another name."
                )
            seen.add(metric)
            yield f"{name}/{metric}", value


def numbers(values: Iterable[tuple[str, Value]]) -> dict[str, float]:
    """The numbers among values, by name."""
    return {n: float(v) for n, v in values if not isinstance(v, Sound | Figure)}
