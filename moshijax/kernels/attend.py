"""Attention: under any mask, within the window of a whole stream, and to a handful of keys.

The layout of keys is that of a cache, [B, N, H, S]: XLA:CPU would copy [S, H] into it before each
product q @ k^T. Whole streams and short sequences come as they are projected, [B, T, N, H].
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from moshijax.kernels.dispatch import Kernel
from moshijax.kernels.names import ATTENDED


FEW = 4  # queries; up to so many, a CPU is faster with one matrix-vector product each


def _at_once(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B N H S"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    scale = q.shape[-1] ** -0.5
    # [B, N, T, S]: by head, each of the T queries with each of the S keys.
    logits = jnp.einsum("btnh,bnhs->bnts", q * scale, k, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnts,bnsh->btnh", weights, v)


def _query_by_query(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B N H S"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """By matrix-vector products, for a CPU and few queries: they read the cache in place.

    XLA:CPU copies the operands of a matrix product into tiles first.
    """
    parts = [slice(i, i + 1) for i in range(q.shape[1])]
    return jnp.concatenate([_at_once(q[:, p], k, v, mask[:, p]) for p in parts], axis=1)


ATTEND = Kernel(_at_once, _query_by_query)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B N H S"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """Averages the values that the mask admits, weighted by the softmax of the scores."""
    return ATTEND(q, k, v, mask, cpu=_query_by_query if q.shape[1] <= FEW else None)


def within(ages: Int[Array, "*T S"], context: int) -> Bool[Array, "*T S"]:
    """Whether a key is seen: `ages` are the query's position minus the key's, in frames."""
    return (ages >= 0) & (ages < context)


def _masked(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    context: int,
) -> Float[Array, "B T N H"]:
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
    ages = jnp.arange(q.shape[1])[:, None] - jnp.arange(q.shape[1])[None]
    return attend(q, k, v, within(ages, context)[None])


def _banded(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    context: int,
) -> Float[Array, "B T N H"]:
    """By blocks of `context` queries, which need only their own block of keys and the one before.

    For any machine and a stream of over two windows: it computes 2 `context` scores a frame
    instead of one for each frame of the stream.
    """
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
    length = q.shape[1]
    blocks = -(-length // context)
    after = blocks * context - length
    # Keys begin with a block of zeros: block i of the queries needs blocks i and i + 1 of them.
    none, pad = (0, 0), (context, after)
    starts = jnp.arange(blocks) * context
    ages = context + jnp.arange(context)[:, None] - jnp.arange(2 * context)[None]
    q = jnp.pad(q, ((0, 0), (0, after), (0, 0), (0, 0)))
    k, v = jnp.pad(k, (none, none, none, pad)), jnp.pad(v, (none, none, pad, none))

    def block(start: Int[Array, ""]) -> Float[Array, "B T_block N H"]:
        cut = jax.lax.dynamic_slice_in_dim
        real = start + jnp.arange(2 * context)[None] >= context  # not the zeros before the stream
        mask = within(ages, context) & real
        keys, values = cut(k, start, 2 * context, 3), cut(v, start, 2 * context, 2)
        return attend(cut(q, start, context, 1), keys, values, mask[None])

    y = jax.lax.map(block, starts)  # [blocks, B, T_block, N, H]
    return y.swapaxes(0, 1).reshape(q.shape)[:, :length]


WHOLE = Kernel(_masked, _banded)


def attend_whole(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    context: int,
) -> Float[Array, "B T N H"]:
    """Attends over a whole stream; each frame sees `context` frames, itself included."""
    long = q.shape[1] > 2 * context
    y = WHOLE(q, k, v, context=context, default=_banded if long else _masked)
    return checkpoint_name(y, ATTENDED)


def _by_products(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    return attend(q, k.transpose(0, 2, 3, 1), v.swapaxes(1, 2), mask)


def _by_sums(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """By elementwise products and sums, for a TPU: up to 32 keys fill a corner of the MXU's tiles.

    XLA:TPU lays these out with the rows B in the lanes.
    """
    wide = jnp.float32
    products = q.astype(wide)[:, :, None] * k.astype(wide)[:, None]  # [B, T, S, N, H]
    logits = products.sum(-1) * q.shape[-1] ** -0.5  # [B, T, S, N]
    logits = jnp.where(mask[..., None], logits, jnp.finfo(wide).min)
    weights = jax.nn.softmax(logits, axis=2).astype(v.dtype)
    y = (weights.astype(wide)[..., None] * v.astype(wide)[:, None]).sum(2)
    return y.astype(v.dtype)


FEW_KEYS = Kernel(_by_products, _by_sums)


def attend_few(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """Attends to up to 32 keys: those of the codebooks of one frame."""
    return FEW_KEYS(q, k, v, mask, tpu=_by_sums)
