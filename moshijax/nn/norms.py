"""Normalisations over the last axis, computed in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class LayerNorm(nnx.Module):
    """Centres, scales to unit variance, then applies a scale and a bias."""

    def __init__(self, dim: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalises each frame."""
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        scale = self.scale[...].astype(jnp.float32)[None, None]
        bias = self.bias[...].astype(jnp.float32)[None, None]
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Scales to unit mean square, then applies a scale."""

    def __init__(self, dim: int, *, epsilon: float = 1e-8):
        self.scale = nnx.Param(jnp.ones(dim))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalises each frame."""
        wide = x.astype(jnp.float32)
        square = jnp.square(wide).mean(axis=-1, keepdims=True)
        scale = self.scale[...].astype(jnp.float32)[None, None]
        return (wide * (scale * jax.lax.rsqrt(square + self.epsilon))).astype(x.dtype)
