"""Causal sliding-window self-attention with a ring key/value cache.

Both of Mimi's transformers and Moshi's temporal one use it (Moshi, sections 3.3 and 3.4).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from moshijax.nn.linear import Linear
from moshijax.nn.rope import rotate
from moshijax.nn.streaming import pick_rows


# Names of intermediate values that rematerialisation may keep (`transformer.REMAT`).
ATTENDED = "attended"  # the output of attention
RESIDUALS = "attention_residuals"  # what the splash kernel keeps for its gradient
KERNELS = ("xla", "fused")  # How a whole stream is attended to; see fused.py.
FEW = 4  # queries; up to so many, a CPU is faster with one matrix-vector product each
SMALL = 128  # slots; a cache of up to so many is always read whole


class KVCache(NamedTuple):
    """A ring of keys and values: position p lies in slot p % S, until p + S takes its place.

    With S = 4 and 6 frames written (`end` = 6) the slots hold the positions 4, 5, 2, 3.
    """

    # Transposed, [H, S]: XLA:CPU would copy [S, H] into this layout before each q @ k^T.
    k: Float[Array, "B N H S"]
    v: Float[Array, "B N S H"]
    end: Int[Array, "B"]  # The position of the row's next frame.

    def hold(self, active: Bool[Array, "B"], old: "KVCache", axes: Any) -> "KVCache":
        """Keeps the position of rows that sit out: the next step overwrites their slots."""
        return self._replace(end=pick_rows(active, self.end, old.end, axes.end))


def extend(
    cache: KVCache, k: Float[Array, "B T N H"], v: Float[Array, "B T N H"]
) -> tuple[KVCache, Int[Array, "B S"]]:
    """Writes T frames; also returns the position each slot now holds (negative: none)."""
    # A chunk is written before it is read: its first query still needs the context - 1 frames
    # before it, next to the whole chunk.
    size = cache.v.shape[2]
    last = cache.end[:, None] + k.shape[1] - 1
    # Slot s holds the newest position p <= last with p % size == s, which is
    # last - (last - s) % size; before the ring is full that is negative for empty slots.
    positions = last - (last - jnp.arange(size)[None]) % size
    k, v = k.astype(cache.k.dtype), v.astype(cache.v.dtype)
    write = jax.lax.platform_dependent
    return write(cache, k, v, positions, tpu=_rewrite, default=_write_slots), positions


def _write_slots(
    cache: KVCache,
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    positions: Int[Array, "B S"],
) -> KVCache:
    rows = jnp.arange(k.shape[0])[:, None]
    slots = (cache.end[:, None] + jnp.arange(k.shape[1])[None]) % positions.shape[1]
    return KVCache(
        cache.k.at[rows, :, :, slots].set(k, unique_indices=True),
        cache.v.at[rows, :, slots].set(v, unique_indices=True),
        cache.end + k.shape[1],
    )


def _rewrite(
    cache: KVCache,
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    positions: Int[Array, "B S"],
) -> KVCache:
    """Writes every slot anew; for a scatter XLA:TPU transposes the whole cache and back."""
    # Which frame of the chunk each slot takes; negative: the slot keeps what it has.
    frames = positions - cache.end[:, None]
    # One-hot [B, S, T], so that the frames are picked by a product on the MXU.
    chosen = (frames[..., None] == jnp.arange(k.shape[1])[None, None]).astype(k.dtype)
    written = (frames >= 0)[:, None]
    new_k = jnp.einsum("bst,btnh->bnhs", chosen, k, precision="highest")
    new_v = jnp.einsum("bst,btnh->bnsh", chosen, v, precision="highest")
    return KVCache(
        jnp.where(written[:, :, None], new_k, cache.k),
        jnp.where(written[..., None], new_v, cache.v),
        cache.end + k.shape[1],
    )


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B N H S"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """Averages the values that the mask admits, weighted by the softmax of the scores."""
    if q.shape[1] > FEW:
        return _attend_at_once(q, k, v, mask)
    return jax.lax.platform_dependent(
        q, k, v, mask, cpu=_attend_query_by_query, default=_attend_at_once
    )


def _attend_query_by_query(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B N H S"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """By matrix-vector products, which read the cache in place.

    XLA:CPU copies the operands of a matrix product into tiles first.
    """
    parts = [slice(i, i + 1) for i in range(q.shape[1])]
    return jnp.concatenate([_attend_at_once(q[:, p], k, v, mask[:, p]) for p in parts], axis=1)


def _attend_at_once(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B N H S"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("btnh,bnhs->bnts", q * scale, k, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnts,bnsh->btnh", weights, v)


def attend_filled(
    q: Float[Array, "B T N H"],
    cache: KVCache,
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """Attends to a cache, and reads no more of it than what has been written needs.

    The part read is the whole, a half, a quarter and so on, by the row that is furthest on. A TPU
    reads the whole: it would copy the part first, which takes longer unless that is small.
    """
    sizes = [cache.v.shape[2]]
    while sizes[-1] > SMALL:
        sizes.append(-(-sizes[-1] // 2))

    def read(size: int, q: Array, k: Array, v: Array, mask: Array) -> Array:
        k, v = k[..., :size], v[:, :, :size]
        return attend(q, k.astype(q.dtype), v.astype(q.dtype), mask[..., :size])

    if len(sizes) == 1:
        return read(sizes[0], q, cache.k, cache.v, mask)
    branches = [functools.partial(read, size) for size in sizes]
    which = jnp.maximum(jnp.sum(cache.end.max() <= jnp.array(sizes)) - 1, 0)

    def read_part(q: Array, k: Array, v: Array, mask: Array) -> Array:
        return jax.lax.switch(which, branches, q, k, v, mask)

    dispatch = jax.lax.platform_dependent
    return dispatch(q, cache.k, cache.v, mask, tpu=branches[0], default=read_part)


def attend_banded(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    context: int,
) -> Float[Array, "B T N H"]:
    """Attends over a whole stream; each frame sees `context` frames, itself included."""
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
    length = q.shape[1]
    if length <= 2 * context:
        ages = jnp.arange(length)[:, None] - jnp.arange(length)[None]
        return attend(q, k, v, _within(ages, context)[None])
    # Blocks of `context` queries need only their own block of keys and the one before.
    blocks = -(-length // context)
    after = blocks * context - length
    none, pad = (0, 0), (context, after)
    starts = jnp.arange(blocks) * context
    ages = context + jnp.arange(context)[:, None] - jnp.arange(2 * context)[None]
    q = jnp.pad(q, ((0, 0), (0, after), (0, 0), (0, 0)))
    k, v = jnp.pad(k, (none, none, none, pad)), jnp.pad(v, (none, none, pad, none))

    def block(start: Int[Array, ""]) -> Float[Array, "B C N H"]:
        cut = jax.lax.dynamic_slice_in_dim
        written = start + jnp.arange(2 * context)[None] >= context
        mask = _within(ages, context) & written
        keys, values = cut(k, start, 2 * context, 3), cut(v, start, 2 * context, 2)
        return attend(cut(q, start, context, 1), keys, values, mask[None])

    y = jax.lax.map(block, starts)
    return y.swapaxes(0, 1).reshape(q.shape)[:, :length]


def _within(ages: Int[Array, "*T S"], context: int) -> Bool[Array, "*T S"]:
    return (ages >= 0) & (ages < context)


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

    def init_state(self, batch_size: int, max_chunk: int = 1, dtype: Any = jnp.float32) -> KVCache:
        """Returns the state before a stream of chunks of at most `max_chunk` frames."""
        width = self.dim // self.num_heads
        # Moshi's own code keeps `context` slots, which loses keys for chunks over one frame.
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
            state, written = extend(state, k, v)
            ages = positions[:, :, None] - written[:, None]
            mask = _within(ages, self.context) & (written >= 0)[:, None]
            y = attend_filled(q, state, mask)
        return checkpoint_name(self.out(y.reshape(x.shape)), "attention_out"), state

    def _attend_whole(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T N H"],
        v: Float[Array, "B T N H"],
    ) -> Float[Array, "B T N H"]:
        banded = functools.partial(attend_banded, context=self.context)
        if self.kernel == "xla":
            return checkpoint_name(banded(q, k, v), ATTENDED)
        # Imported here: Pallas takes long to import, and few models need it.
        from moshijax.nn.fused import attend_fused

        return attend_fused(q, k, v, self.context, banded)

    def _heads(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)
