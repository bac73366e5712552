"""The ring of keys and values of a stream: what writes frames into it, and what reads it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from moshijax.kernels.attend import attend
from moshijax.kernels.dispatch import Kernel


SMALL = 128  # slots; a cache of up to so many is always read whole


class KVCache(NamedTuple):
    """A ring of keys and values: position p lies in slot p % S, until p + S takes its place.

    With S = 4 and 6 frames written (`end` = 6) the slots hold the positions 4, 5, 2, 3.
    """

    # Transposed, [H, S]: XLA:CPU would copy [S, H] into this layout before each q @ k^T.
    k: Float[Array, "B N H S"]
    v: Float[Array, "B N S H"]
    end: Int[Array, "B"]  # The position of the row's next frame.

    def hold(self, active: Bool[Array, "B"], old: "KVCache", axes: PyTree[int]) -> "KVCache":
        """Keeps the position of rows that sit out: the next step overwrites their slots."""
        # The axes before B are those of stacked layers.
        active = active.reshape((1,) * axes.end + active.shape)
        return self._replace(end=jnp.where(active, self.end, old.end))


def _scatter(
    cache: KVCache,
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    positions: Int[Array, "B S"],
) -> KVCache:
    rows = jnp.arange(k.shape[0])[:, None]  # [B, 1], with slots [B, T]
    slots = (cache.end[:, None] + jnp.arange(k.shape[1])[None]) % positions.shape[1]
    # Index arrays with slices between them put their own axes first: both take [B, T, N, H].
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
    """Writes every slot anew, for a TPU: for a scatter it transposes the whole cache and back.

    Written and read whole, the caches of Mimi's attention at 64 rows and 2 frames take 306
    kilocycles on a v5e by the compiler's own count, 1,275 otherwise; at 1 row 46 and 70.
    """
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


WRITE = Kernel(_scatter, _rewrite)


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
    return WRITE(cache, k, v, positions, tpu=_rewrite), positions


def _all_slots(
    q: Float[Array, "B T N H"], cache: KVCache, mask: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    return _first_slots(cache.v.shape[2], q, cache, mask)


def _filled_slots(
    q: Float[Array, "B T N H"], cache: KVCache, mask: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    """Reads the whole, a half, a quarter and so on, by the row that is furthest on.

    For a CPU and a GPU, which take a slice as it lies. A TPU would copy the part first, which
    takes longer than reading the whole unless that is small.
    """
    sizes = [cache.v.shape[2]]
    while sizes[-1] > SMALL:
        sizes.append(-(-sizes[-1] // 2))
    branches = [functools.partial(_first_slots, size) for size in sizes]
    which = jnp.maximum(jnp.sum(cache.end.max() <= jnp.array(sizes)) - 1, 0)
    return jax.lax.switch(which, branches, q, cache, mask)


def _first_slots(
    size: int, q: Float[Array, "B T N H"], cache: KVCache, mask: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    k, v = cache.k[..., :size], cache.v[:, :, :size]
    return attend(q, k.astype(q.dtype), v.astype(q.dtype), mask[..., :size])


READ = Kernel(_all_slots, _filled_slots)


def attend_filled(
    q: Float[Array, "B T N H"], cache: KVCache, mask: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    """Attends to a cache, and reads no more of it than what has been written needs."""
    if cache.v.shape[2] <= SMALL:
        return READ(q, cache, mask)
    return READ(q, cache, mask, default=_filled_slots, tpu=_all_slots)
