"""One live session: a frame of the user's codes in, text and a frame of own codes out."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from moshijax.live.step import make_step
from moshijax.lm.conditioning import Condition
from moshijax.lm.config import UNGENERATED
from moshijax.lm.generate import Context, Settings, init_state
from moshijax.lm.moshi import Moshi


class Output(NamedTuple):
    """What the model says in a frame; before the delays are over neither text nor sound."""

    text: int | None
    codes: Int[np.ndarray, "K_depth"] | None  # None for a model without a depth transformer
    pauses: Float[np.ndarray, "pause_heads"]  # probability that the user has paused


class Session:
    """Keeps the state of one user's stream.

    Args:
        model: in any layout; lists of layers run fastest on a CPU.
        settings: how frames are sampled; with guidance, `conditions` hold two rows.
        conditions: one for each condition of the model, by name; None: it has none.
        seed: of all that is sampled.
    """

    def __init__(
        self,
        model: Moshi,
        settings: Settings,
        *,
        conditions: Mapping[str, Condition] | None = None,
        seed: int = 0,
    ):
        prepared = model.prepare(conditions or {})
        self.config = model.config
        self.settings = settings
        self._step = make_step(model, Context(prepared.added, model.sources(prepared)))
        self._state = [init_state(model, 1, guided=settings.guidance is not None)]
        self._key = jax.random.key(seed)
        self._frames = 0

    def feed(self, codes: Int[np.ndarray, "K_user"], forced: int = UNGENERATED) -> Output:
        """Takes a frame of the user's codes; `forced` text replaces what would be sampled."""
        if not self._frames and self.config.num_user_codebooks:
            # At its first step a model reads initial codes only: so the first frame comes twice.
            self._advance(codes, UNGENERATED)
        return self._advance(codes, forced)

    def _advance(self, codes: Int[np.ndarray, "K_user"], forced: int) -> Output:
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
            return Output(None, None, pauses)
        return Output(int(found[0]), found[1:] if len(found) > 1 else None, pauses)
