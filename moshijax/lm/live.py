"""The live step of a model, compiled: the model is taken apart once, the state is donated."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Int

from moshijax.lm.generate import Context, Frame, LiveState, Settings, step
from moshijax.lm.moshi import Moshi


LiveStep = Callable[..., tuple[Frame, LiveState]]


def make_step(model: Moshi, context: Context | None = None) -> LiveStep:
    """Compiles `step(state, given, settings, key, forced=None, active=None)`.

    Each state may be used once. Settings are arguments: numbers in them may change from frame to
    frame without compiling anew.
    """
    leaves, tree = jax.tree.flatten((model, context))

    def run(
        leaves: list[Array],
        state: LiveState,
        given: Int[Array, "B Q"],
        settings: Settings,
        key: Array,
        rest: dict[str, Any],
    ) -> tuple[Frame, LiveState]:
        model, context = jax.tree.unflatten(tree, leaves)
        return step(model, state, given, settings, key, context=context, **rest)

    compiled = jax.jit(run, donate_argnums=1)
    return lambda state, given, settings, key, **rest: compiled(
        leaves, state, given, settings, key, rest
    )
