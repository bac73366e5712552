import jax
import jax.numpy as jnp
import numpy as np

from moshijax.kernels.rope import rotate


def test_a_tpu_gets_the_product():
    x = jax.ShapeDtypeStruct((1, 4, 2, 128), jnp.bfloat16)
    positions = jax.ShapeDtypeStruct((1, 4), jnp.int32)

    def turn(x, positions):
        return rotate(x, positions, 10000.0)

    traced = jax.jit(turn).trace(x, positions)
    assert "dot_general" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "dot_general" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_rotation_keeps_scores_of_equal_distances():
    q, k = jax.random.normal(jax.random.key(3), (2, 1, 1, 1, 8))

    def score(i, j):
        turned = [rotate(a, jnp.full((1, 1), p), 100.0) for a, p in ((q, i), (k, j))]
        return jnp.sum(turned[0] * turned[1])

    np.testing.assert_allclose(score(7, 3), score(1007, 1003), atol=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_rotation_turns_interleaved_pairs():
    x = jnp.zeros((1, 1, 1, 4)).at[..., 2].set(1.0)
    turned = rotate(x, jnp.full((1, 1), 3), 10000.0)[0, 0, 0]
    angle = 3 * 10000.0**-0.5
    np.testing.assert_allclose(turned, [0, 0, np.cos(angle), np.sin(angle)], atol=1e-6)
