"""The contract of streaming modules, and what a caller may do to the rows of a state.

A module that looks beyond the present frame is one pure function, `y, state = module(x, state)`:

* `state is None` means that x is the whole stream from its start; the returned state is `None`.
* `module.init_state(batch_size, ...)` is the state at the start of a stream. Calling with it
  gives the y that calling with `None` gives, and any cut of x into chunks gives it too.
* A state is a `NamedTuple` of arrays whose shapes and dtypes never change. The state of a
  container is the tuple of its children's; that of a stack of layers has the layer axis in front.
* The length of a chunk is static. A module states what it must be a multiple of, and raises.
* Rows of a batch never see each other, so sessions may come, pause and go row by row:

      axes = batch_axes(module.init_state)
      state = select_rows(ended, module.init_state(batch_size), state, axes)  # rows start again
      state = hold_rows(active, new_state, state, axes)                 # other rows sit a step out
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree


State = PyTree[Array]  # None: x is the whole stream.
S = TypeVar("S")
Result = TypeVar("Result")


def batch_axes(init_state: Callable[[int], State]) -> PyTree[int]:
    """Returns a tree like the state that holds the position of each leaf's batch axis."""

    def axis(one: jax.ShapeDtypeStruct, two: jax.ShapeDtypeStruct) -> int:
        (found,) = (i for i, size in enumerate(one.shape) if size != two.shape[i])
        return found

    return jax.tree.map(
        axis, jax.eval_shape(lambda: init_state(1)), jax.eval_shape(lambda: init_state(2))
    )


def pick_rows(rows: Bool[Array, "B"], chosen: Array, other: Array, axis: int) -> Array:
    """Takes from one array the rows marked True along an axis, and the rest from another."""
    shape = (1,) * axis + rows.shape + (1,) * (chosen.ndim - axis - 1)
    return jnp.where(rows.reshape(shape), chosen, other)


def select_rows(rows: Bool[Array, "B"], chosen: S, other: S, axes: PyTree[int]) -> S:
    """Takes from one state the rows marked True, and the rest from another."""
    return jax.tree.map(lambda c, o, axis: pick_rows(rows, c, o, axis), chosen, other, axes)


def hold_rows(active: Bool[Array, "B"], new: S, old: S, axes: PyTree[int]) -> S:
    """Advances the active rows only, without copying caches.

    A state with a method `hold` decides for itself. What a row is fed while it sits out is
    forgotten, but must be finite.
    """

    def hold(new: State, old: State, axes: PyTree[int]) -> State:
        return new.hold(active, old, axes) if _holds(new) else pick_rows(active, new, old, axes)

    return jax.tree.map(hold, new, old, axes, is_leaf=_holds)


def make_step(
    function: Callable[..., Result], model: PyTree[Array], *, donated: int = 1
) -> Callable[..., Result]:
    """Compiles `function(model, x, state)` for a live stream, as `step(x, state)`.

    The state, or whichever argument of the step is named, is donated: each may be used once. The
    model is taken apart once, since doing so at each call would cost a third of a millisecond.
    """
    leaves, tree = jax.tree.flatten(model)

    def run(leaves: list[Array], *args: PyTree[Array]) -> Result:
        return function(jax.tree.unflatten(tree, leaves), *args)

    return functools.partial(jax.jit(run, donate_argnums=1 + donated), leaves)


def _holds(state: object) -> bool:
    return hasattr(state, "hold")
