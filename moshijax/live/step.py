"""The live step of a model, compiled: the model is taken apart once, the state is donated."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Int

from moshijax.lm.generate import Context, Frame, LiveState, Settings, step
from moshijax.lm.moshi import Moshi
from moshijax.nn import streaming


LiveStep = Callable[..., tuple[Frame, LiveState]]


def make_step(model: Moshi, context: Context | None = None) -> LiveStep:
    """Compiles `step(state, given, settings, key, forced=None, active=None)`.

    Each state may be used once. Settings are arguments: numbers in them may change from frame to
    frame without compiling anew.
    """

    def run(
        both: tuple[Moshi, Context | None],
        state: LiveState,
        given: Int[Array, "B Q"],
        settings: Settings,
        key: Array,
        rest: dict[str, Any],
    ) -> tuple[Frame, LiveState]:
        model, context = both
        return step(model, state, given, settings, key, context=context, **rest)

    compiled = streaming.make_step(run, (model, context), donated=0)
    return lambda state, given, settings, key, **rest: compiled(state, given, settings, key, rest)
