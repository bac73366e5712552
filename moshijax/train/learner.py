"""A model that is trained: its optimizers, each for its kinds of batches, and its average."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from moshijax.train import optim, settings


class State(NamedTuple):
    """A model, its optimizers' states by name, and its average if it has one."""

    model: Any
    optimizers: Any
    average: Any


class Learner:
    """Pure functions over a `State`.

    Args:
        config: `optimizers`, `average` and `num_steps` of an experiment.
        model: arrays or shapes.

    Raises:
        UserError: a value that no run can have, or a table that does not match a parameter once.
    """

    def __init__(self, config: ConfigDict, model: Any) -> None:
        self.optimizers = optim.make_all(config.optimizers, config.num_steps, model)
        kept = config.average  # Of the average, each step; None: there is none.
        self.decay = None if kept is None else settings.number(kept, "average", 1.0)

    def begin(self, model: Any) -> State:
        """Optimizers that have seen nothing; the average begins as the model itself."""
        states = {name: one.init(model) for name, one in self.optimizers.items()}
        average = None if self.decay is None else jax.tree.map(jnp.array, model)
        return State(model, states, average)

    def update(self, kind: str, state: State, grads: Any) -> tuple[State, dict[str, Any]]:
        """One step by the optimizer of a kind of batch; also returns norms and learning rate."""
        name = optim.name_for(kind, self.optimizers)
        model, own, norms = self.optimizers[name].update(grads, state.optimizers[name], state.model)
        average = state.average
        if self.decay is not None:
            average = optax.incremental_update(model, average, 1 - self.decay)
        return State(model, state.optimizers | {name: own}, average), norms


def averaged(state: State) -> Any:
    """The model that is evaluated and exported: the average, where the state has one."""
    return state.model if state.average is None else state.average
