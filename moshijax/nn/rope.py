"""Rotary position embedding over interleaved pairs, as Moshi and Mimi use it."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], max_period: float
) -> Float[Array, "B T N H"]:
    """Turns the pair (2i, 2i + 1) of each head by `position * max_period ** (-2i / H)`."""
    pairs = x.shape[-1] // 2
    rates = jnp.exp(jnp.arange(pairs, dtype=jnp.float32) * (-math.log(max_period) / pairs))
    # sin needs float32: bfloat16 rounds position 257 to 256.
    angle = positions.astype(jnp.float32)[:, :, None, None] * rates[None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    split = x.astype(jnp.float32).reshape(*x.shape[:-1], pairs, 2)
    real, imaginary = split[..., 0], split[..., 1]
    turned = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
