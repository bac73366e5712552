import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.nn import rope


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_turns_pairs_as_the_pairs_themselves_do(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 5, 3, 8)).astype(dtype)
    cos, sin = (jax.random.normal(key, (2, 5, 1, 4)) for key in keys[1:])
    pairs, product = rope._by_pairs(x, cos, sin), rope._by_product(x, cos, sin)
    assert product.dtype == dtype
    np.testing.assert_allclose(
        np.float32(pairs), np.float32(product), rtol=1e-2 if dtype == jnp.bfloat16 else 1e-6,
        atol=1e-6,
    )  # fmt: skip


def test_a_tpu_gets_the_product():
    x = jax.ShapeDtypeStruct((1, 4, 2, 128), jnp.bfloat16)
    positions = jax.ShapeDtypeStruct((1, 4), jnp.int32)

    def turn(x, positions):
        return rope.rotate(x, positions, 10000.0)

    traced = jax.jit(turn).trace(x, positions)
    assert "dot_general" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "dot_general" not in traced.lower(lowering_platforms=("cpu",)).as_text()
