"""Attention of a stream to a source that is whole from the start (DSM's voices)."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moshijax.kernels.attend import attend
from moshijax.nn.linear import Linear


class Source(NamedTuple):
    """The keys and values of a source."""

    k: Float[Array, "B N H S"]
    v: Float[Array, "B N S H"]


class CrossAttention(nnx.Module):
    """Multi-head attention in which each frame sees all of a source; no positions, no mask."""

    def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
        self.q, self.k, self.v, self.out = (
            Linear(dim, dim, use_bias=False, rngs=rngs) for _ in range(4)
        )
        self.num_heads = num_heads

    def read(self, source: Float[Array, "B S D"]) -> Source:
        """Projects a source, once for all the frames that will attend to it."""
        k, v = self._heads(self.k(source)), self._heads(self.v(source))
        return Source(k.transpose(0, 2, 3, 1), v.swapaxes(1, 2))

    def __call__(self, x: Float[Array, "B T D"], source: Source) -> Float[Array, "B T D"]:
        """Attends to the source."""
        k, v = source.k.astype(x.dtype), source.v.astype(x.dtype)
        mask = jnp.ones((1, x.shape[1], v.shape[2]), bool)
        y = attend(self._heads(self.q(x)), k, v, mask)
        return self.out(y.reshape(x.shape))

    def _heads(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)
