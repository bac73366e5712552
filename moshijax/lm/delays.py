"""Streams shifted against each other in time (Moshi, section 3.4.2).

With delays (0, 1) and the initial code i, the streams a0 a1 a2 and b0 b1 b2 become, delayed,

    a0 a1 a2
    i  b0 b1

and b2 is lost. At frame t a model reads column t - 1 (the initial codes at t = 0) and predicts
column t.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from moshijax.lm.config import ZERO


def delay(
    codes: Int[Array, "B K T"], delays: tuple[int, ...], initial: tuple[int, ...]
) -> Int[Array, "B K T"]:
    """Moves each stream later; before its start it holds its initial code, its end is lost."""
    length = codes.shape[2]
    late = np.array(delays)[:, None]
    sources = np.arange(length)[None] - late  # [K, T]: the frame that lands at each place
    moved = jnp.take_along_axis(codes, jnp.maximum(sources, 0)[None], axis=2)
    return jnp.where(sources[None] < 0, jnp.array(initial, codes.dtype)[None, :, None], moved)


def undelay(
    values: Shaped[Array, "B K T ..."], delays: tuple[int, ...]
) -> tuple[Shaped[Array, "B K T ..."], Bool[Array, "K T"]]:
    """Moves each stream back; the mask is False at the ends, whose values are lost and zero."""
    length = values.shape[2]
    late = np.array(delays)[:, None]
    sources = np.arange(length)[None] + late  # [K, T]: where the frame of each place lies
    mask = jnp.asarray(sources < length)
    tail = (1,) * (values.ndim - 3)
    index = np.minimum(sources, length - 1).reshape(1, *sources.shape, *tail)
    moved = jnp.take_along_axis(values, jnp.asarray(index), axis=2)
    # A finite fill: NaN times zero would still spoil a gradient.
    return jnp.where(mask.reshape(index.shape), moved, jnp.zeros((), values.dtype)), mask


def targets(
    codes: Int[Array, "B K T"], delays: tuple[int, ...], initial: tuple[int, ...]
) -> tuple[Int[Array, "B K T"], Int[Array, "B K T"], Bool[Array, "B K T"]]:
    """Returns what a model reads at each frame, what it should predict there, and where.

    It reads the delayed codes of the frame before; codes of ZERO are no targets.
    """
    predicted = delay(codes, delays, initial)
    first = jnp.array(initial, codes.dtype)[None, :, None]
    first = jnp.broadcast_to(first, (*codes.shape[:2], 1))
    read = jnp.concatenate([first, predicted[:, :, :-1]], axis=2)
    begun = jnp.arange(codes.shape[2])[None] >= jnp.array(delays)[:, None]
    return read, predicted, begun[None] & (predicted != ZERO)
