"""The live step of a model, compiled: the model is taken apart once, the state is donated."""

from collections.abc import Callable

from jaxtyping import Array, Bool, Int

from moshijax.lm.generate import Context, Frame, LiveState, Settings, step
from moshijax.lm.moshi import Moshi
from moshijax.nn import streaming


LiveStep = Callable[..., tuple[Frame, LiveState]]


def make_step(model: Moshi, context: Context | None = None) -> LiveStep:
    """Compiles `step(state, user_codes, settings, key, forced=None, active=None)`.

    Each state may be used once. Settings are arguments: numbers in them may change from frame to
    frame without compiling anew.
    """

    def run(
        both: tuple[Moshi, Context | None],
        state: LiveState,
        user_codes: Int[Array, "B K_user"],
        settings: Settings,
        key: Array,
        forced: Int[Array, "B K_own"] | None,
        active: Bool[Array, "B"] | None,
    ) -> tuple[Frame, LiveState]:
        model, context = both
        return step(
            model, state, user_codes, settings, key, context=context, forced=forced, active=active
        )

    compiled = streaming.make_step(run, (model, context), donated=0)
    return lambda state, user_codes, settings, key, forced=None, active=None: compiled(
        state, user_codes, settings, key, forced, active
    )
