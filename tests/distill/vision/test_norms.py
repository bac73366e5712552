import jax
import jax.numpy as jnp
import numpy as np

from distill.vision.norms import group_norm, standardize


def plain_group_norm(x, scale, bias, num_groups):
    """The formula of section 3 of Wu and He 2018, differentiated by JAX."""
    B, N, C = x.shape
    groups = x.reshape(B, N, num_groups, C // num_groups)
    centred = groups - groups.mean((1, 3), keepdims=True)
    variance = jnp.square(centred).mean((1, 3), keepdims=True)
    return (centred / jnp.sqrt(variance + 1e-5)).reshape(x.shape) * scale[None, None] + bias[
        None, None
    ]


def plain_standardize(kernel):
    centred = kernel - kernel.mean((0, 1, 2), keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean((0, 1, 2), keepdims=True) + 1e-10)


def gradients(f, *args):
    y, vjp = jax.vjp(f, *args)
    return vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def test_group_norm_is_its_formula_in_float64():
    rng = np.random.default_rng(0)
    # A large mean: E[x^2] - E[x]^2 in float32 would be off by far more than the tolerance.
    x = 1000 + rng.normal(size=(2, 15, 6)).astype(np.float32)
    groups = x.astype(np.float64).reshape(2, 15, 3, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    normed = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    scale, bias = np.arange(1, 7), np.arange(6)
    ours = group_norm(jnp.array(x), jnp.array(scale, "f4"), jnp.array(bias, "f4"), 3)
    np.testing.assert_allclose(ours, normed * scale + bias, atol=2e-3)


def test_gradients_of_group_norm_are_those_of_its_formula():
    keys = jax.random.split(jax.random.key(0), 3)
    x = 2 + 3 * jax.random.normal(keys[0], (2, 15, 6))
    scale, bias = jax.random.normal(keys[1], (6,)), jax.random.normal(keys[2], (6,))
    ours = gradients(lambda *args: group_norm(*args, 3), x, scale, bias)
    expected = gradients(lambda *args: plain_group_norm(*args, 3), x, scale, bias)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_constant_image_has_finite_gradients():
    x, ones = jnp.full((2, 4, 6), 3.0), jnp.ones(6)
    for gradient in gradients(lambda *args: group_norm(*args, 2), x, ones, ones):
        assert np.all(np.isfinite(gradient))


def test_group_norm_keeps_statistics_in_float32():
    x = 100 + jax.random.normal(jax.random.key(0), (2, 50, 4))
    low = group_norm(x.astype(jnp.bfloat16), jnp.ones(4), jnp.zeros(4), 2)
    exact = group_norm(x.astype(jnp.bfloat16).astype(jnp.float32), jnp.ones(4), jnp.zeros(4), 2)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, exact.astype(jnp.bfloat16))


def test_standardized_kernels_have_mean_0_and_variance_1():
    result = standardize(3 + jax.random.normal(jax.random.key(0), (3, 3, 4, 5)))
    np.testing.assert_allclose(result.mean((0, 1, 2)), np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(result.std((0, 1, 2)), np.ones(5), atol=1e-5)


def test_gradients_of_standardize_are_those_of_its_formula():
    kernel = 1 + jax.random.normal(jax.random.key(0), (3, 3, 4, 5)) / 2
    (ours,), (expected,) = gradients(standardize, kernel), gradients(plain_standardize, kernel)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
