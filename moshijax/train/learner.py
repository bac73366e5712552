"""A model that is trained: its optimizers, each for its kinds of batches, and its average."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from moshijax.train import optim, settings


class State(NamedTuple):
    """A model, its optimizers' states by name, and its average if it has one."""

    model: PyTree[jax.Array]
    optimizers: Mapping[str, optim.OptimizerState]
    average: PyTree[jax.Array] | None


class Learner:
    """Pure functions over a `State`.

    Args:
        config: `optimizers`, `average` and `num_steps` of an experiment.
        model: its parameters, or their shapes.

    Raises:
        UserError: a value that no run can have, or a table that does not match a parameter once.
    """

    def __init__(self, config: ConfigDict, model: PyTree[jax.Array | jax.ShapeDtypeStruct]) -> None:
        self.optimizers = optim.make_all(config.optimizers, config.num_steps, model)
        kept = config.average  # The share of the average that a step keeps; None: no average.
        self.decay = None if kept is None else settings.number(kept, "average", 1.0)

    def begin(self, model: PyTree[jax.Array]) -> State:
        """Optimizers that have seen nothing; the average begins as the model itself."""
        states = {name: one.init(model) for name, one in self.optimizers.items()}
        average = None if self.decay is None else jax.tree.map(jnp.array, model)
        return State(model, states, average)

    def update(
        self, kind: str, state: State, grads: PyTree[jax.Array]
    ) -> tuple[State, dict[str, jax.Array]]:
        """One step by the optimizer of a kind of batch; also returns norms and learning rate."""
        name = optim.name_for(kind, self.optimizers)
        model, own, norms = self.optimizers[name].update(grads, state.optimizers[name], state.model)
        average = state.average
        if self.decay is not None:
            average = _follow(average, model, self.decay)
        return State(model, {**state.optimizers, name: own}, average), norms


def _follow(
    average: PyTree[jax.Array], model: PyTree[jax.Array], decay: float
) -> PyTree[jax.Array]:
    """An average after one more step: `decay` of it is kept."""
    return optax.incremental_update(model, average, 1 - decay)


def averaged(state: State) -> PyTree[jax.Array]:
    """The model that is evaluated and exported: the average, where the state has one."""
    return state.model if state.average is None else state.average
