"""Moshi: text and audio streams through a temporal and a depth transformer (section 3.4).

Helium is the same without audio streams, a speech-to-text model the same without a depth
transformer.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from moshijax.lm.conditioning import Condition, Conditioners, Conditions
from moshijax.lm.config import MoshiConfig
from moshijax.lm.delays import targets, undelay
from moshijax.lm.depth import Depth
from moshijax.lm.temporal import Temporal
from moshijax.nn.linear import Linear
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.nn.steps import make_linears, map_steps
from moshijax.nn.transformer import Sources


KEPT = re.compile(r"conditioners/.*|(.*/)?kernel(/frozen)?/(values|scale|offset)")
PAUSES = 6  # logits of a pause head; the first is that of a pause


class Logits(NamedTuple):
    """Logits aligned with the codes, and where they are valid; elsewhere they are zero."""

    text: Float[Array, "B T V"]
    text_mask: Bool[Array, "B T"]
    audio: Float[Array, "B K_depth T V_audio"] | None
    audio_mask: Bool[Array, "B K_depth T"]


class Moshi(nnx.Module):
    """The model of a configuration; it reads codes `[B, K, T]` whose stream 0 is text."""

    def __init__(self, config: MoshiConfig, *, rngs: nnx.Rngs):
        self.temporal = Temporal(config, rngs=rngs)
        self.depth = Depth(config, config.depth, rngs=rngs) if config.depth else None
        pauses = config.num_pause_heads
        self.pause_heads: Linear | nnx.List | None = (
            make_linears(pauses, config.dim, PAUSES, rngs) if pauses else None
        )
        self.conditioners = Conditioners(config, rngs=rngs) if config.conditions else None
        self.config = config

    def prepare(self, conditions: Mapping[str, Condition]) -> Conditions:
        """Fuses the conditions of a batch; a model without conditioners takes none.

        Raises:
            ValueError: a condition is missing or surplus.
        """
        if self.conditioners is not None:
            return self.conditioners(conditions)
        if conditions:
            raise ValueError(f"conditions: {sorted(conditions)} given, but the model has none.")
        return Conditions(None, None)

    def sources(self, conditions: Conditions) -> Sources | None:
        """Returns what the layers attend to, projected once for a whole stream."""
        if conditions.source is None:
            return None
        dtype = self.temporal.out_norm.scale.dtype
        return self.temporal.transformer.sources(conditions.source.astype(dtype))

    def hidden(
        self, read: Int[Array, "B K T"], conditions: Mapping[str, Condition] | None = None
    ) -> Float[Array, "B T D"]:
        """Returns the temporal hidden of whole delayed streams, as the heads and depth read it."""
        self.check(read)
        prepared = self.prepare(conditions or {})
        hidden, _ = self.temporal(read, added=prepared.added, sources=self.sources(prepared))
        return hidden

    def logits(
        self, codes: Int[Array, "B K T"], conditions: Mapping[str, Condition] | None = None
    ) -> Logits:
        """Returns the logits of every code of whole streams from the codes before it."""
        self.check(codes)
        config = self.config
        read, predicted, _ = targets(codes, config.delays, config.initial)
        hidden = self.hidden(read, conditions)
        text, text_valid = undelay(self.temporal.text_logits(hidden)[:, None], config.delays[:1])
        generated = slice(1, 1 + config.num_generated)
        audio, valid = None, jnp.zeros((0, codes.shape[2]), bool)
        if self.depth is not None:
            audio, valid = undelay(self.audio_logits(hidden, predicted), config.delays[generated])
        present = codes != -1
        return Logits(
            text[:, 0], text_valid & present[:, 0], audio, valid[None] & present[:, generated]
        )

    def audio_logits(
        self, hidden: Float[Array, "B T D"], predicted: Int[Array, "B K T"]
    ) -> Float[Array, "B K_depth T V"]:
        """Runs the depth transformer at every frame, given the codes of that frame."""
        if self.depth is None:
            raise ValueError("this model has no depth transformer, so no audio logits.")
        rows, length, dim = hidden.shape
        # Every frame is a row of its own: [B * T, K].
        flat = predicted.swapaxes(1, 2).reshape(rows * length, -1)
        codes = flat[:, 1 : 1 + self.config.num_generated]
        with jax.named_scope("depth"):
            logits = self.depth.logits(hidden.reshape(-1, dim), flat[:, 0], codes)
        return logits.reshape(rows, length, *logits.shape[1:]).swapaxes(1, 2)

    def pauses(self, hidden: Float[Array, "B D"]) -> Float[Array, "B pause_heads pause_logits"]:
        """Returns each pause head's probabilities; the first is that of a pause (DSM)."""
        if self.pause_heads is None:
            return jnp.zeros((hidden.shape[0], 0, PAUSES))
        number = self.config.num_pause_heads
        copies = jnp.broadcast_to(hidden[:, None], (hidden.shape[0], number, hidden.shape[1]))
        logits = map_steps(self.pause_heads, copies, tuple(range(number)))
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    def check(self, codes: Int[Array, "B K T"]) -> None:
        """Raises ValueError unless there is one stream of codes for each of the model's."""
        if codes.shape[1] != self.config.num_streams:
            raise ValueError(
                f"codes: {codes.shape[1]} streams given, the model has "
                f"{self.config.num_streams} (text and {self.config.num_codebooks} codebooks): "
                "stereo sound gives the codebooks of both speakers."
            )


def keeps_type(name: str) -> bool:
    """Whether a parameter has one type in every model: conditioners, and kernels of few bits."""
    return KEPT.fullmatch(name) is not None


def cast(model: Moshi, dtype: DTypeLike) -> Moshi:
    """Returns the model with parameters of another type, but for those that keep theirs."""
    leaves = named_leaves(model).items()
    return with_leaves(model, {n: x if keeps_type(n) else x.astype(dtype) for n, x in leaves})


def read_end_as_padding(model: Moshi) -> Moshi:
    """Returns the model with the text's end (2) read as padding, so that it goes on speaking.

    Hibiki at times ends before its speaker does; Moshi's own loader does the same.
    """
    leaves = named_leaves(model)
    table = leaves["temporal/text_embedding/table"]
    row = table[model.config.text_padding]
    return with_leaves(model, leaves | {"temporal/text_embedding/table": table.at[2].set(row)})
