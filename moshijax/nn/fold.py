"""Sums over the frames of a stream, chunk by chunk, so that a chunk is all there is in memory."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from moshijax.nn.rows import split_rows


Sums = TypeVar("Sums")

ALIGNED = 8  # XLA:TPU tiles rows by 8, and copies to merge an axis of others with the batch.


def align(frames: int) -> int:
    """The next number of frames that fills its tiles."""
    return -(-frames // ALIGNED) * ALIGNED


def fold_frames(
    function: Callable[..., Sums], parts: Sequence[Shaped[Array, "B T _"]], chunk_frames: int
) -> Sums:
    """Adds up `function(*chunks)` over the fewest equal chunks of at most `chunk_frames`.

    What it computes of a chunk, such as logits, is computed again for the chunk's gradient.

    Args:
        function: of a chunk of each part; a tree of sums, to which padding adds nothing.
        parts: arrays that are cut along their frames; filled up with zeros.
        chunk_frames: frames of a chunk at most; rounded up to whole tiles.
    """
    count = -(-parts[0].shape[1] // align(chunk_frames))
    # Of frames that are split over devices each chunk would gather all anew.
    chunks = tuple(_cut(split_rows(part), count) for part in parts)

    @jax.checkpoint
    def add(total: Sums, chunk: tuple[Array, ...]) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, total, function(*map(split_rows, chunk))), None

    one = jax.eval_shape(function, *jax.eval_shape(lambda: tuple(c[0] for c in chunks)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
    return jax.lax.scan(add, zeros, chunks)[0]


def _cut(x: Shaped[Array, "B T C"], count: int) -> Shaped[Array, "chunks B T_chunk C"]:
    size = align(-(-x.shape[1] // count))
    padded = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1]), (0, 0)))
    return padded.reshape(x.shape[0], count, size, x.shape[2]).swapaxes(0, 1)
