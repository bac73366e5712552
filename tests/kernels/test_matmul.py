import jax
import jax.numpy as jnp
import numpy as np

from moshijax.kernels.matmul import product


def test_product_is_the_matrix_product_for_any_number_of_rows():
    kernel = jax.random.normal(jax.random.key(0), (5, 3))
    for shape in ((1, 1, 5), (2, 1, 5), (2, 40, 5)):
        x = jax.random.normal(jax.random.key(1), shape)
        np.testing.assert_allclose(product(x, kernel), x @ kernel, atol=1e-6)


def test_gradients_are_those_of_the_matrix_product():
    x = jax.random.normal(jax.random.key(0), (1, 3, 4))
    kernel = jax.random.normal(jax.random.key(1), (4, 2))

    def gradient(multiply):
        return jax.grad(lambda x, k: jnp.sin(multiply(x, k)).sum(), argnums=(0, 1))(x, kernel)

    ours, theirs = gradient(product), gradient(jnp.matmul)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert np.abs(b).max() > 0.1


def test_other_platforms_get_a_plain_product():
    shape = jax.ShapeDtypeStruct((1, 3, 4), np.float32), jax.ShapeDtypeStruct((4, 2), np.float32)
    text = {
        platform: jax.jit(product).trace(*shape).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    assert "convolution" in text["cpu"]
    for platform in ("tpu", "cuda"):
        assert "dot_general" in text[platform]
        assert "convolution" not in text[platform]
