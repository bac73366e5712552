"""Causal sliding-window self-attention with a ring key/value cache.

Both of Mimi's transformers and Moshi's temporal one use it (Moshi, sections 3.3 and 3.4).
"""

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from moshijax.kernels.attend import attend_whole, within
from moshijax.kernels.cache import KVCache, attend_filled, extend
from moshijax.kernels.rope import rotate
from moshijax.nn.linear import Linear


KERNELS = ("xla", "fused")  # How a whole stream is attended to; see kernels/fused.py.


class SlidingAttention(nnx.Module):
    """Multi-head self-attention in which each frame sees the last `context` frames."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        context: int,
        max_period: float | None,
        kernel: str = "xla",
        rngs: nnx.Rngs,
    ):
        if dim % num_heads:
            raise ValueError(f"dim {dim} is no multiple of num_heads {num_heads}")
        if kernel not in KERNELS:
            raise ValueError(f"attention kernel {kernel!r} is unknown; there are {KERNELS}")
        self.kernel = kernel
        # Separate leaves: XLA:TPU copies each all-gathered weight of a fused qkv to another layout.
        self.q, self.k, self.v, self.out = (
            Linear(dim, dim, use_bias=False, rngs=rngs) for _ in range(4)
        )
        self.dim = dim
        self.num_heads = num_heads
        self.context = context
        self.max_period = max_period

    def init_state(
        self, batch_size: int, max_chunk: int = 1, dtype: DTypeLike = jnp.float32
    ) -> KVCache:
        """Returns the state before a stream of chunks of at most `max_chunk` frames."""
        width = self.dim // self.num_heads
        # The first query of a chunk sees context - 1 frames before it, and the whole chunk is
        # written before it is read. Moshi's own code keeps `context` slots, so that a chunk of
        # several frames overwrites keys that its first queries still see.
        slots = self.context - 1 + max_chunk
        k = jnp.zeros((batch_size, self.num_heads, width, slots), dtype)
        v = jnp.zeros((batch_size, self.num_heads, slots, width), dtype)
        return KVCache(k, v, jnp.zeros(batch_size, jnp.int32))

    def __call__(
        self, x: Float[Array, "B T D"], state: KVCache | None = None
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Attends within one chunk and to what came before."""
        length = x.shape[1]
        positions = jnp.arange(length)[None]
        if state is not None:
            room = state.v.shape[2] - self.context + 1
            if length > room:
                raise ValueError(f"a chunk of {length} frames; init_state made room for {room}")
            positions = state.end[:, None] + positions
        q, k, v = (self._heads(project(x)) for project in (self.q, self.k, self.v))
        if self.max_period is not None:
            q, k = (rotate(a, positions, self.max_period) for a in (q, k))
        q, k, v = (checkpoint_name(a, name) for a, name in ((q, "q"), (k, "k"), (v, "v")))
        if state is None:
            y = self._attend_whole(q, k, v)
        else:
            state, held = extend(state, k, v)  # held [B, S]: the position in each slot
            # [B, T, S]: how many frames before the query the key of a slot lies.
            ages = positions[:, :, None] - held[:, None]
            mask = within(ages, self.context) & (held >= 0)[:, None]
            y = attend_filled(q, state, mask)
        return checkpoint_name(self.out(y.reshape(x.shape)), "attention_out"), state

    def _attend_whole(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T N H"],
        v: Float[Array, "B T N H"],
    ) -> Float[Array, "B T N H"]:
        if self.kernel == "xla":
            return attend_whole(q, k, v, self.context)
        # Imported here: Pallas takes long to import, and few models need it.
        from moshijax.kernels.fused import attend_fused

        return attend_fused(q, k, v, self.context)

    def _heads(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)
