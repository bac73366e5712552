"""Attention over a whole stream by JAX's splash kernel, which runs on TPUs only.

It never has the scores in memory and skips what lies outside of the window.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from moshijax.nn.attention import RESIDUALS


BLOCK = 512  # queries and keys at a time
KEYS = 2048  # keys whose part of the queries' gradient is added up at a time, at most
ROWS = ("data", "fsdp")  # The mesh axes that split a batch, as sharding.py has them,
HEADS = "tensor"  # and the one that splits heads.


def attend_splash(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    context: int,
) -> Float[Array, "B T N H"]:
    """Attends over a whole stream; each frame sees `context` frames, itself included."""
    length = q.shape[1]
    q, k, v = (
        jnp.pad(a, ((0, 0), (0, -length % BLOCK), (0, 0), (0, 0))).swapaxes(1, 2)
        for a in (q * q.shape[-1] ** -0.5, k, v)
    )
    mesh = jax.sharding.get_abstract_mesh()
    run = functools.partial(_run, context=context)
    if not mesh.empty:
        spec = P(ROWS, HEADS, None, None)
        run = jax.shard_map(
            run, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
        )
    return run(q, k, v).swapaxes(1, 2)[:, :length]


def _run(q: Array, k: Array, v: Array, *, context: int) -> Array:
    """Runs the kernel on the rows and heads of one device."""
    _, heads, length, _ = q.shape
    shape, window = (length, length), (context - 1, 0)
    mask = (
        splash_attention_mask.CausalMask(shape)
        if length <= context
        else splash_attention_mask.LocalMask(shape, window, offset=0)
    )
    block = min(BLOCK, length)
    keys = max(n for n in range(block, KEYS + 1, block) if length % n == 0)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=keys,
            block_kv_dkv_compute=block,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=RESIDUALS,
    )
    return jax.vmap(kernel)(q, k, v)
