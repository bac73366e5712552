"""Training a language model on arrays of codes: the task, and what a config says of it.

python -m moshijax.train --config configs/moshi.py:stage=1 --workdir runs/moshi
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from moshijax.lm.config import ConditionConfig, DepthConfig, MoshiConfig
from moshijax.lm.losses import (
    FORMS,
    LossConfig,
    Sums,
    Weights,
    combine,
    lm_loss,
    perplexities,
    stream_sums,
    stream_weights,
)
from moshijax.lm.moshi import Moshi, cast
from moshijax.lm.presets import PRESETS
from moshijax.lm.rules import RULES
from moshijax.nn.attention import KERNELS
from moshijax.nn.transformer import REMAT
from moshijax.system.errors import UserError
from moshijax.train import optim, settings
from moshijax.train.learner import Learner, State, averaged


Row = TypeVar("Row")
Batch = Mapping[str, jax.Array]  # `codes` [B, K, T].
SIZES = {
    *("dim", "num_heads", "num_layers", "mlp_dim", "context", "text_vocab", "codebook_size"),
    "num_codebooks",
}
COUNTS = {"num_pause_heads", "text_padding", "text_padding_end"}
SECONDS = {"frame_shift", "silence_prefix"}
SWITCHES = {"positioned_sources", "two_texts", "ignore_text_end"}


class LMTask:
    """Next-frame prediction of text and codes (Moshi, sections 3.4 and 4.3).

    Args:
        config: `model`, `loss`, `optimizers`, `average`, `compute_dtype`, `accumulate` and
            `num_steps`.
    """

    begin = None  # Nothing is initialised by data.

    def __init__(self, config: ConfigDict) -> None:
        self.rules = RULES
        self.frozen: dict[str, jax.Array] = {}
        self.model_config = model_config(config.model)
        if self.model_config.conditions or self.model_config.two_texts:
            raise UserError(
                f"config.model.preset: {config.model.preset!r} reads conditions or two pieces of "
                "text a frame, which shards do not hold: take a Moshi, a Helium or an STT."
            )
        self.loss_config = loss_config(config.loss)
        self.dtype = settings.dtype(config.compute_dtype, "compute_dtype")
        self.parts = config.accumulate
        shapes = jax.eval_shape(self.make, jax.random.key(0))
        self.learner = Learner(config, shapes)

    def make(self, key: jax.Array) -> Moshi:
        """A random model."""
        return Moshi(self.model_config, rngs=nnx.Rngs(key))

    def init(self, key: jax.Array) -> State:
        """A random model in float32 and optimizers that have seen nothing."""
        return self.learner.begin(self.make(key))

    def update(
        self,
        kind: str,
        state: State,
        frozen: dict[str, jax.Array],
        batch: Batch,
        key: jax.Array,
    ) -> tuple[State, dict[str, jax.Array]]:
        """One step on a batch, by the optimizer of its kind."""
        del frozen, key  # Nothing is drawn: the data are shuffled beforehand.

        def loss(
            model: Moshi, rows: Batch, weights: Weights
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            model = cast(model, self.dtype)
            return lm_loss(model, rows["codes"], self.loss_config, weights=weights)

        grads, metrics = optim.accumulate(loss, self.weigh, state.model, batch, self.parts)
        state, norms = self.learner.update(kind, state, grads)
        return state, metrics | norms

    def weigh(self, batch: Batch) -> Weights:
        """What the sums over a batch are divided by."""
        return stream_weights(self.model_config, batch["codes"], self.loss_config)

    def evaluate(
        self, state: State, frozen: dict[str, jax.Array], batch: Batch
    ) -> tuple[Sums, Weights]:
        """Sums of cross entropies and of their weights."""
        del frozen
        model = cast(averaged(state), self.dtype)
        return stream_sums(model, batch["codes"], self.loss_config), self.weigh(batch)

    def summarize(self, sums: tuple[Sums, Weights]) -> dict[str, float]:
        """Losses of a whole set, and the perplexities of text and codes."""
        _, metrics = combine(*jax.tree.map(jnp.asarray, sums), self.loss_config)
        losses = {name: float(value) for name, value in metrics.items()}
        return losses | perplexities(*sums)

    def model_flops(self, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> float:
        """Forward, and backward twice as much, of all frames."""
        rows, _, length = batch["codes"].shape
        return 3.0 * rows * length * frame_flops(self.model_config, length)


def loss_config(spec: ConfigDict) -> LossConfig:
    """The weights of the loss.

    Raises:
        UserError: an unknown form, or a number that no run can have.
    """
    settings.one_of(spec.form, "loss.form", FORMS)
    for name in ("padding_weight", "semantic_weight"):
        settings.number(spec[name], f"loss.{name}")
    settings.whole(spec.chunk_frames, "loss.chunk_frames", 1)
    return LossConfig(**spec.to_dict())


def model_config(spec: ConfigDict) -> MoshiConfig:
    """The architecture of `spec.preset` with `spec.overrides`.

    Raises:
        UserError: an unknown preset or field, or a size that no model can have.
    """
    preset, overrides = preset_of(spec, "preset"), spec.overrides.to_dict()
    for name in SIZES & overrides.keys():
        settings.whole(overrides[name], f"model.overrides.{name}", 1)
    for name, known in dict(remat=REMAT, kernel=KERNELS).items():
        if name in overrides:
            settings.one_of(overrides[name], f"model.overrides.{name}", known)
    if "max_period" in overrides:
        settings.number(overrides["max_period"], "model.overrides.max_period", positive=True)
    for name in COUNTS & overrides.keys():
        settings.whole(overrides[name], f"model.overrides.{name}", 0)
    for name in SECONDS & overrides.keys():
        settings.number(overrides[name], f"model.overrides.{name}")
    for name in SWITCHES & overrides.keys():
        settings.one_of(overrides[name], f"model.overrides.{name}", (False, True))
    if not isinstance(overrides.get("depth"), DepthConfig | None):
        remedy = "None, or take a preset that has another depth transformer"
        raise settings.refusal(overrides["depth"], "model.overrides.depth", remedy)
    for name, row in dict(delays=int, conditions=ConditionConfig).items():
        if name in overrides:
            overrides[name] = _rows(overrides[name], row, f"model.overrides.{name}")
    for late in overrides.get("delays", ()):
        settings.whole(late, "model.overrides.delays", 0)
    try:
        return dataclasses.replace(preset, **overrides)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(MoshiConfig))
        raise UserError(f"model.overrides: {error}; fields are {fields}.") from error
    except ValueError as error:
        raise UserError(f"model.overrides: {error}") from error


def _rows(found: object, kind: type[Row], key: str) -> tuple[Row, ...]:
    """A sequence of a config as a tuple; raises UserError unless it is one of this kind."""
    if not isinstance(found, list | tuple) or not all(isinstance(row, kind) for row in found):
        raise settings.refusal(found, key, f"a sequence of {kind.__name__}")
    return tuple(found)


def preset_of(spec: ConfigDict, key: str) -> MoshiConfig:
    """The preset that a key of `spec` names.

    Raises:
        UserError: there is none of this name.
    """
    if spec[key] not in PRESETS:
        raise UserError(f"model.{key}: {spec[key]!r} is unknown, take one of {', '.join(PRESETS)}.")
    return PRESETS[spec[key]]


def frame_flops(config: MoshiConfig, length: int) -> float:
    """Multiplications and additions of one frame's forward pass, the mean over a stream.

    Only what the model needs: nothing computed again, and no score outside of the window.

    Args:
        config: of the model.
        length: frames of the stream.
    """
    width, layers = config.dim, config.num_layers
    # The projections of q, k, v and the output; gate, up and down of the MLP.
    each = 4 * width * width + 3 * width * config.mlp_dim
    seen = min(config.context, length)
    mean = seen * (1 - (seen - 1) / (2 * length))  # Keys that a query sees on average.
    weights = layers * each + width * config.text_vocab
    flops = 2.0 * weights + layers * 4 * width * mean  # Of a key: q @ k and weights @ v.
    if config.depth is not None:
        depth, books = config.depth, config.depth.num_codebooks
        each = 4 * depth.dim**2 + 3 * depth.dim * depth.mlp_dim
        own = depth.num_layers * each + depth.dim * (width + config.codebook_size)
        flops += books * (2.0 * own + depth.num_layers * 2 * depth.dim * (books + 1))
    return flops
