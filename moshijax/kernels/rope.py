"""Rotary position embedding over interleaved pairs, as Moshi and Mimi use it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moshijax.kernels.dispatch import Kernel


def _by_pairs(
    x: Float[Array, "B T N H"], cos: Float[Array, "#B T 1 pairs"], sin: Float[Array, "#B T 1 pairs"]
) -> Float[Array, "B T N H"]:
    split = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    real, imaginary = split[..., 0], split[..., 1]
    turned = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _by_product(
    x: Float[Array, "B T N H"], cos: Float[Array, "#B T 1 pairs"], sin: Float[Array, "#B T 1 pairs"]
) -> Float[Array, "B T N H"]:
    """By `x cos + (x S) sin`, for a TPU; the matrix S maps the pair (a, b) to (-b, a).

    A TPU pads the last axis of an array to 128 lanes, so [.., H/2, 2] would take 64 times as much.
    """
    first = np.arange(0, x.shape[-1], 2)
    swap = np.zeros((x.shape[-1], x.shape[-1]), np.float32)
    swap[first + 1, first], swap[first, first + 1] = -1, 1
    # Each sum has one term that is not zero, so the product is exact.
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    # j: the place in the head that h is moved to.
    turned = jnp.einsum("btnh,hj->btnj", x, jnp.asarray(swap, x.dtype), precision=exact)
    cos, sin = (jnp.repeat(a, 2, axis=-1) for a in (cos, sin))
    y = x.astype(jnp.float32) * cos + turned.astype(jnp.float32) * sin
    return y.astype(x.dtype)


TURN = Kernel(_by_pairs, _by_product)


def rotate(
    x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], max_period: float
) -> Float[Array, "B T N H"]:
    """Rotates the pair (2i, 2i + 1) of each head by `position * max_period ** (-2i / H)`."""
    pairs = x.shape[-1] // 2
    rates = jnp.exp(jnp.arange(pairs, dtype=jnp.float32) * (-math.log(max_period) / pairs))
    # sin needs float32: bfloat16 rounds position 257 to 256.
    angle = positions.astype(jnp.float32)[:, :, None, None] * rates[None, None, None]
    return TURN(x, jnp.cos(angle), jnp.sin(angle), tpu=_by_product)
