import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax import sharding
from moshijax.nn import fused
from moshijax.nn.attention import attend_banded


def streams(length, dtype=jnp.float32, rows=1, width=16):
    keys = jax.random.split(jax.random.key(length), 4)
    shape = (rows, length, 2, width)
    return tuple(jax.random.normal(key, shape, dtype) for key in keys)


# Shorter than, equal to and longer than the stream; lengths on and off the block of 512.
@pytest.mark.parametrize(("length", "context"), [(700, 150), (700, 700), (512, 2000), (1100, 600)])
def test_splash_kernel_equals_banded_attention_in_value_and_gradient(length, context):
    *qkv, weights = streams(length)

    def total(attend, *qkv):
        return (attend(*qkv, context) * weights).sum()

    splash = functools.partial(fused.attend_splash, interpret=True)
    got, want = (
        jax.value_and_grad(functools.partial(total, attend), argnums=(0, 1, 2))(*qkv)
        for attend in (splash, attend_banded)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_splash_kernel_on_a_mesh_equals_one_device():
    *qkv, _ = streams(512, rows=4)
    want = attend_banded(*qkv, 100)
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        run = functools.partial(fused.attend_splash, context=100, interpret=True)
        placed = (jax.device_put(a, jax.NamedSharding(mesh, sharding.BATCH)) for a in qkv)
        got = jax.jit(run)(*placed)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_without_a_fused_body_the_unfused_one_attends():
    *qkv, _ = streams(40)
    unfused = functools.partial(attend_banded, context=9)
    np.testing.assert_array_equal(fused.attend_fused(*qkv, 9, unfused), unfused(*qkv))


@pytest.mark.parametrize(("context", "window"), [(30, 30), (64, 0), (100, 0)])
def test_gpus_attend_by_cudnn_within_the_window(monkeypatch, context, window):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    stablehlo = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{stablehlo}.check_cudnn_version", lambda: 91000)
    *qkv, _ = streams(64, jnp.bfloat16, width=64)
    banded = functools.partial(attend_banded, context=context)
    run = jax.jit(lambda *qkv: fused.attend_fused(*qkv, context, banded))
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
def test_cudnn_equals_banded_attention(context):
    *qkv, _ = streams(700, jnp.bfloat16, width=64)
    got = fused.attend_cudnn(*qkv, context).astype(jnp.float32)
    want = attend_banded(*(a.astype(jnp.float32) for a in qkv), context)
    np.testing.assert_allclose(got, want, atol=0.03)
