"""One live session: a frame of the user's codes in, text and a frame of own codes out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from moshijax.live.step import make_step
from moshijax.lm.config import UNGENERATED
from moshijax.lm.generate import Context, Settings, init_state
from moshijax.lm.moshi import Moshi


class Heard(NamedTuple):
    """What a frame gave; before the delays are over there is neither text nor sound."""

    text: int | None
    codes: Int[np.ndarray, "K"] | None
    pauses: Float[np.ndarray, "N"]  # chance that the user has paused, by pause head


class Session:
    """Keeps the state of one user's stream."""

    def __init__(
        self,
        model: Moshi,
        settings: Settings,
        *,
        given: Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        conditions = model.prepare(given or {})
        self.config = model.config
        self.settings = settings
        self._step = make_step(model, Context(conditions.added, model.sources(conditions)))
        self._state = [init_state(model, 1, guided=settings.guidance is not None)]
        self._key = jax.random.key(seed)
        self._frames = 0

    def feed(self, codes: Int[np.ndarray, "Q"], forced: int = UNGENERATED) -> Heard:
        """Takes one frame of codes; `forced` text takes the place of what would be sampled."""
        if not self._frames and self.config.num_given:
            # At its first step a model reads initial codes only: hear the frame again.
            self._advance(codes, UNGENERATED)
        return self._advance(codes, forced)

    def _advance(self, codes: Int[np.ndarray, "Q"], forced: int) -> Heard:
        fixed = np.full((1, 1 + self.config.num_generated), UNGENERATED, np.int32)
        fixed[0, 0] = forced
        frame, self._state[0] = self._step(
            self._state[0],
            np.asarray(codes, np.int32)[None],
            self.settings,
            jax.random.fold_in(self._key, self._frames),
            forced=fixed,
        )
        self._frames += 1
        found = np.asarray(frame.codes[0])
        pauses = np.asarray(frame.pauses[0, :, 0])
        if found[0] == UNGENERATED:
            return Heard(None, None, pauses)
        return Heard(int(found[0]), found[1:] if len(found) > 1 else None, pauses)
