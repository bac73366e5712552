import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax import shard
from moshijax.kernels import fused
from moshijax.kernels.attend import attend_whole


def streams(length, dtype=jnp.float32, rows=1, width=16):
    keys = jax.random.split(jax.random.key(length), 4)
    shape = (rows, length, 2, width)
    return tuple(jax.random.normal(key, shape, dtype) for key in keys)


def test_splash_kernel_on_a_mesh_equals_one_device():
    *qkv, _ = streams(512, rows=4)
    want = attend_whole(*qkv, 100)
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        run = functools.partial(fused.splash, context=100, interpret=True)
        placed = (jax.device_put(a, jax.NamedSharding(mesh, shard.BATCH)) for a in qkv)
        got = jax.jit(run)(*placed)
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(("context", "window"), [(30, 30), (64, 0), (100, 0)])
def test_gpus_attend_by_cudnn_within_the_window(monkeypatch, context, window):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    stablehlo = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{stablehlo}.check_cudnn_version", lambda: 91000)
    *qkv, _ = streams(64, jnp.bfloat16, width=64)
    run = jax.jit(lambda *qkv: fused.attend_fused(*qkv, context))
    text = run.trace(*qkv).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text
    found = [
        part.split(",")[0] for part in text.replace("\\22", '"').split("sliding_window_length")
    ]
    assert found[1:] == [f'": {window}'] * (len(found) - 1) != []
    assert "__cudnn" not in run.trace(*qkv).lower(lowering_platforms=("cpu",)).as_text()


def test_cudnn_takes_16_bits_and_heads_of_up_to_128():
    assert fused.suits_cudnn(jnp.zeros((1, 1, 1, 128), jnp.bfloat16))
    for width, dtype in ((128, jnp.float32), (136, jnp.bfloat16), (20, jnp.bfloat16)):
        assert not fused.suits_cudnn(jnp.zeros((1, 1, 1, width), dtype))


@pytest.mark.gpu
@pytest.mark.skipif("jax.default_backend() != 'gpu'", reason="there is no GPU")
@pytest.mark.parametrize("context", [100, 700])
def test_cudnn_equals_unfused_attention(context):
    *qkv, _ = streams(700, jnp.bfloat16, width=64)
    got = fused.cudnn(*qkv, context).astype(jnp.float32)
    want = attend_whole(*(a.astype(jnp.float32) for a in qkv), context)
    np.testing.assert_allclose(got, want, atol=0.03)
