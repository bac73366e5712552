"""What a model says of each stream at the frames of a chunk, beside what is said there."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

from moshijax.lm.moshi import Moshi


class Head(NamedTuple):
    """Logits of a stream, or of the codebooks of one, and the codes that they predict."""

    logits: Float[Array, "*B V"]
    codes: Int[Array, "*B"]
    mask: Bool[Array, "*B"]  # Where there is a code to predict.


def heads(
    model: Moshi,
    hidden: Float[Array, "B T D"],
    predicted: Int[Array, "B T K"],
    mask: Bool[Array, "B T K"],
) -> dict[str, Head]:
    """The heads of a chunk of frames: `text` [B, T] and, with sound, `audio` [B, K_depth, T].

    The depth transformer reads the codes that are predicted before each codebook.
    """
    text = model.temporal.text_logits(hidden)
    found = {"text": Head(text, predicted[..., 0], mask[..., 0])}
    if model.depth is not None:
        generated = slice(1, 1 + model.config.num_generated)
        found["audio"] = Head(
            model.audio_logits(hidden, predicted.swapaxes(1, 2)),
            predicted[..., generated].swapaxes(1, 2),
            mask[..., generated].swapaxes(1, 2),
        )
    return found
