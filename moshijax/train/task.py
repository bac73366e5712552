"""The frame's contract: what an experiment brings, and what the loop and preflight do with it.

The loop owns time and files; an experiment owns the mathematics. A config names a module whose
`make(config, mesh)` returns its `Experiment`.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from moshijax.data.batches import TrainData
from moshijax.shard import AnyMesh, Rules
from moshijax.system.errors import UserError
from moshijax.train.values import Value


State = TypeVar("State")
Metrics = Mapping[str, jax.Array]


@runtime_checkable
class Task(Protocol[State]):
    """Pure functions over a state, which is a tree of arrays.

    A state's field `model` holds the parameters, its field `average` (a tree of the same names, or
    None) their average over the steps; what else it holds is the task's own.
    """

    rules: Rules  # The sharding of each parameter: the tables of its models, joined.
    # What every step takes and none changes, so that it is never saved: a teacher, a codec.
    frozen: PyTree[jax.Array | jax.ShapeDtypeStruct]
    # begin(state, frozen, batch, key) -> state, once before the first step with its batch, for
    # what data initialise (codebooks by k-means); None where there is nothing of the kind.
    begin: Callable[[State, PyTree[jax.Array], PyTree[jax.Array], jax.Array], State] | None

    def init(self, key: jax.Array) -> State:
        """The state at step 0: models, optimizers, averages."""
        ...

    def update(
        self,
        kind: str,
        state: State,
        frozen: PyTree[jax.Array],
        batch: PyTree[jax.Array],
        key: jax.Array,
    ) -> tuple[State, Metrics]:
        """One step on a batch of a kind; also returns float32 scalars by name, with `loss`."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """Measures a state: on a held-out set, by samples to listen to, by figures to look at."""

    def __call__(
        self, state: PyTree[jax.Array], frozen: PyTree[jax.Array], key: jax.Array, mesh: Mesh
    ) -> Iterator[tuple[str, Value]]:
        """Yields names and values; a sound or figure becomes a file of the work directory."""
        ...


def _uncounted(kind: str) -> float | None:
    """Leaves the FLOPs of an update to be counted from its program."""
    del kind


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config stands for: for training, evaluation, export and preflight alike."""

    task: Task
    # Shapes of a global batch, by kind; rows come first.
    batches: Mapping[str, PyTree[jax.ShapeDtypeStruct]]
    unit: str  # What a row is called: images, windows.
    train_data: TrainData | None = None  # None on an abstract mesh, where nothing is read.
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    # Makes arrays by name, which replace leaves of the initial state.
    initial: Callable[[], Mapping[str, jax.Array]] = dict
    # The fraction of the steps that a kind of batch has.
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # How much an update processes, by kind of batch and unit: {"images": {"images": 4096}}.
    counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    # Keys of the config that trade speed for memory without changing what is learned, and the
    # values that each may take, the fastest first.
    choices: Mapping[str, Sequence[object]] = dataclasses.field(default_factory=dict)
    # FLOPs of an update of a kind, the model's own: forward and backward once, nothing recomputed,
    # no score outside of a window. None: as counted from the program.
    model_flops: Callable[[str], float | None] = _uncounted
    # export(leaves, path, part_bytes) writes parameters, which come by name one after the other, as
    # a file for others, or as parts of so many bytes.
    export: Callable[[Iterator[tuple[str, jax.Array]], pathlib.Path, float], None] | None = None

    def share(self, kind: str) -> float:
        """The share of the steps that are of this kind; all, unless `shares` says otherwise."""
        return self.shares.get(kind, 1.0)

    def num_rows(self, kind: str) -> int:
        """Rows of a global batch."""
        return rows_of(self.batches[kind])


def rows_of(batch: PyTree[jax.ShapeDtypeStruct]) -> int:
    """The number of rows of a batch: the first axis of its arrays, scalars left out."""
    return next(leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.shape)


# Builds the experiment of a config on a mesh; on an abstract one its shapes alone.
Make = Callable[[ConfigDict, AnyMesh], Experiment]


def find(config: ConfigDict) -> Make:
    """The function `make(config, mesh)` of the module that a config names.

    Raises:
        UserError: the config names no such module.
    """
    if "experiment" not in config:
        raise UserError(
            "config.experiment is missing: name the module whose make(config, mesh) says what is "
            "trained, such as 'distill.vision.experiment'."
        )
    name = config.experiment
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"config.experiment: {name!r} cannot be imported ({error}): name a module that has a "
            "function make(config, mesh)."
        ) from error
    if not hasattr(module, "make"):
        raise UserError(
            f"config.experiment: {name!r} is no experiment: give it a function make(config, mesh)."
        )
    return module.make
