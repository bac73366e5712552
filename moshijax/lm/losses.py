"""The training loss: masked cross entropies of text and audio (Moshi, equation 7).

Padding of the text stream counts half, the semantic codebook a hundredfold (section 4.3). The
loss is computed over chunks of frames, so that the logits of a whole stream never are in memory.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from moshijax.lm.conditioning import Condition
from moshijax.lm.config import MoshiConfig
from moshijax.lm.delays import targets
from moshijax.lm.heads import Head, heads
from moshijax.lm.moshi import Moshi
from moshijax.nn.fold import align, fold_frames


FORMS = ("paper", "finetune")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """How the cross entropies are weighted.

    The paper's form halves padding only and averages each codebook by itself. moshi-finetune's
    halves the end of padding too, and divides by the sum of all weights. The loss is computed over
    the fewest equal chunks of at most `chunk_frames`, both filled up to multiples of 8.
    """

    form: str = "paper"
    padding_weight: float = 0.5
    semantic_weight: float = 100.0
    chunk_frames: int = 256

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form {self.form!r} is unknown; there are {', '.join(FORMS)}.")


class Sums(NamedTuple):
    """Cross entropies summed over frames: what a loss divides by its `Weights`."""

    text: Float[Array, ""]  # weighted
    words: Float[Array, ""]
    padding: Float[Array, ""]
    audio: Float[Array, "K"]


class Weights(NamedTuple):
    """What the sums are divided by: weights and targets of a batch, known from its codes alone."""

    text: Float[Array, ""]
    words: Float[Array, ""]
    padding: Float[Array, ""]
    audio: Float[Array, "K"]


def lm_loss(
    model: Moshi,
    codes: Int[Array, "B K T"],
    config: LossConfig,
    conditions: Mapping[str, Condition] | None = None,
    weights: Weights | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the loss and its parts of whole streams.

    Args:
        model: stacked, or in lists.
        codes: text first; ZERO is no target.
        config: how the cross entropies are weighted.
        conditions: one for each condition of the model, by name; None: it has none.
        weights: of a larger batch, of whose loss these rows give their share: shares add up.
            None: of these rows.
    """
    weights = stream_weights(model.config, codes, config) if weights is None else weights
    return combine(stream_sums(model, codes, config, conditions), weights, config)


def stream_sums(
    model: Moshi,
    codes: Int[Array, "B K T"],
    config: LossConfig,
    conditions: Mapping[str, Condition] | None = None,
) -> Sums:
    """Sums over whole streams."""
    model.check(codes)
    parts = targets(codes, model.config.delays, model.config.initial)
    fill = ((0, 0), (0, 0), (0, align(codes.shape[2]) - codes.shape[2]))
    read, predicted, mask = (jnp.pad(part, fill) for part in parts)  # Masked: no targets.
    hidden = model.hidden(read, conditions)

    def sums(*chunk: Array) -> Sums:
        return _sums(heads(model, *chunk), model.config, config)

    frames_first = hidden, predicted.swapaxes(1, 2), mask.swapaxes(1, 2)
    return fold_frames(sums, frames_first, config.chunk_frames)


def stream_weights(
    model_config: MoshiConfig, codes: Int[Array, "B K T"], config: LossConfig
) -> Weights:
    """Weights and numbers of the targets of whole streams."""
    _, predicted, mask = targets(codes, model_config.delays, model_config.initial)
    weight, word = _text_weights(predicted[:, 0], mask[:, 0], model_config, config)
    generated = slice(1, 1 + model_config.num_generated)
    return Weights(
        weight.sum(),
        word.sum().astype(jnp.float32),
        (mask[:, 0] & ~word).sum().astype(jnp.float32),
        mask[:, generated].sum((0, 2)).astype(jnp.float32),
    )


def _text_weights(
    text: Int[Array, "B T"], mask: Bool[Array, "B T"], model_config: MoshiConfig, config: LossConfig
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """The weight of each target of text, and whether it is of a word."""
    padding, end = text == model_config.text_padding, text == model_config.text_padding_end
    light = padding | end if config.form == "finetune" else padding
    return jnp.where(light, config.padding_weight, 1.0) * mask, mask & ~padding & ~end


def cross_entropy(
    logits: Float[Array, "*B V"], codes: Int[Array, "*B"], mask: Bool[Array, "*B"]
) -> Float[Array, "*B"]:
    """The negative log likelihood of codes; zero, with a zero gradient, where masked."""
    picked = jnp.take_along_axis(logits, jnp.where(mask, codes, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(mask, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)


def _sums(found: Mapping[str, Head], model_config: MoshiConfig, config: LossConfig) -> Sums:
    """Sums over a chunk of frames."""
    entropies = {name: cross_entropy(*head) for name, head in found.items()}
    text, entropy = found["text"], entropies["text"]
    weight, word = _text_weights(text.codes, text.mask, model_config, config)
    # Masked targets have no entropy.
    words, padding = jnp.where(word, entropy, 0.0).sum(), jnp.where(word, 0.0, entropy).sum()
    audio = entropies["audio"].sum((0, 2)) if "audio" in entropies else jnp.zeros(0)
    return Sums((entropy * weight).sum(), words, padding, audio)


def combine(
    sums: Sums, weights: Weights, config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighs the parts: `loss`, `text_loss`, `audio_loss` and one `audio_loss_k` a codebook.

    All are linear in the sums, so that those of pieces, given the weights of all, add up.
    """
    paper = config.form == "paper"
    text = sums.text / jnp.maximum(weights.words + weights.padding if paper else weights.text, 1e-8)
    metrics = {"text_loss": text}
    number = sums.audio.shape[0]
    audio = jnp.zeros(())
    if number:
        heavy = jnp.where(jnp.arange(number) == 0, config.semantic_weight, 1.0)
        each = sums.audio / jnp.maximum(weights.audio, 1.0)
        if paper:
            audio = (heavy * each).sum() / heavy.sum()
        else:
            total = jnp.maximum((heavy * weights.audio).sum(), 1e-8)
            audio = (heavy * sums.audio).sum() / total
        metrics |= {"audio_loss": audio}
        metrics |= {f"audio_loss_{k}": each[k] for k in range(number)}
    return text + audio, {"loss": text + audio} | metrics


def perplexities(sums: Sums, weights: Weights) -> dict[str, float]:
    """How many codes were equally likely, by the unweighted mean entropy, where there are targets.

    `text_perplexity` is that of all text, `word_perplexity` and `padding_perplexity` (its end
    included) of its two parts, `audio_perplexity_0` of the semantic codebook.
    """
    parts = {
        "text": (sums.words + sums.padding, weights.words + weights.padding),
        "word": (sums.words, weights.words),
        "padding": (sums.padding, weights.padding),
    }
    named = {f"{name}_perplexity": part for name, part in parts.items()}
    if len(sums.audio):
        named["audio_perplexity_0"] = (sums.audio[0], weights.audio[0])
    # An entropy whose exponential is no number is that of a model that has diverged.
    with np.errstate(over="ignore"):
        return {
            name: float(np.exp(np.float64(entropy) / np.float64(count)))
            for name, (entropy, count) in named.items()
            if count
        }
