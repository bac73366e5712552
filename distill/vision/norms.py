"""Group normalisation and weight standardisation, each with its own backward pass.

Both first reduce over positions, for each channel, and then join channels into groups on the small
result: the large arrays keep their channels-last layout. The gradients are written by hand: they
need two sums, where autodiff needs four and stores every intermediate.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


NORM_EPS = 1e-5
STANDARDIZE_EPS = 1e-10


def _group_mean(sums: Float[Array, "B C"], num_groups: int, size: int) -> Float[Array, "B 1 C"]:
    """Means over `size` positions and a group's channels, repeated for each of its channels."""
    B, C = sums.shape
    means = sums.reshape(B, num_groups, C // num_groups).mean(axis=2) / size
    return jnp.repeat(means, C // num_groups, axis=1)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def group_norm(
    x: Float[Array, "B N C"], scale: Float[Array, "C"], bias: Float[Array, "C"], num_groups: int
) -> Float[Array, "B N C"]:
    """Normalises groups of channels over all N positions, in float32."""
    return _group_norm_forward(x, scale, bias, num_groups)[0]


def _group_norm_forward(x, scale, bias, num_groups):
    size = x.shape[1]
    wide = x.astype(jnp.float32)
    mean = _group_mean(wide.sum(axis=1), num_groups, size)
    # The mean of squares after centring: E[x^2] - E[x]^2 loses the small variances.
    variance = _group_mean(jnp.square(wide - mean).sum(axis=1), num_groups, size)
    inverse = jax.lax.rsqrt(variance + NORM_EPS)
    y = (wide - mean) * (inverse * scale[None, None]) + bias[None, None]
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _group_norm_backward(num_groups, saved, dy):
    x, mean, inverse, scale = saved
    size = x.shape[1]
    dy = dy.astype(jnp.float32)
    centred = x.astype(jnp.float32) - mean
    bias_sums = dy.sum(axis=1)
    scale_sums = (dy * centred).sum(axis=1) * inverse[:, 0]
    shift = _group_mean(bias_sums * scale[None], num_groups, size)
    slope = _group_mean(scale_sums * scale[None], num_groups, size)
    dx = inverse * (dy * scale[None, None] - shift - centred * (inverse * slope))
    return dx.astype(x.dtype), scale_sums.sum(axis=0), bias_sums.sum(axis=0)


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


@jax.custom_vjp
def standardize(kernel: Float[Array, "h w C D"]) -> Float[Array, "h w C D"]:
    """Gives every output channel's weights mean 0 and variance 1."""
    return _standardize_forward(kernel)[0]


def _standardize_forward(kernel):
    flat = kernel.reshape(-1, kernel.shape[-1])
    centred = flat - flat.mean(axis=0, keepdims=True)
    variance = jnp.square(centred).mean(axis=0, keepdims=True)
    inverse = jax.lax.rsqrt(variance + STANDARDIZE_EPS)
    normed = centred * inverse
    return normed.reshape(kernel.shape), (normed, inverse)


def _standardize_backward(saved, dy):
    normed, inverse = saved
    flat = dy.reshape(normed.shape)
    shift = flat.mean(axis=0, keepdims=True)
    slope = (flat * normed).mean(axis=0, keepdims=True)
    return ((inverse * (flat - shift - normed * slope)).reshape(dy.shape),)


standardize.defvjp(_standardize_forward, _standardize_backward)
