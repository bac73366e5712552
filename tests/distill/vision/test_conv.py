import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.vision.conv import conv2d, max_pool


def stock(x, kernel, stride):
    """The convolution of XLA, whatever the shapes."""
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=dims)


def value_and_gradients(conv, x, kernel, stride):
    y, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
    return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [
        (5, 6, 1, 1),
        (5, 6, 1, 2),
        (2, 3, 3, 1),
        (4, 3, 3, 2),
        (1, 1, 3, 1),
        (5, 6, 3, 2),
        (5, 4, 7, 2),
    ],
)
def test_every_formulation_is_the_convolution(height, width, size, stride):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, height, width, 3))
    kernel = jax.random.normal(keys[1], (size, size, 3, 4))
    ours = jax.jit(value_and_gradients, static_argnums=(0, 3))(conv2d, x, kernel, stride)
    expected = jax.jit(value_and_gradients, static_argnums=(0, 3))(stock, x, kernel, stride)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_vmapped_convolution_is_a_stack_of_convolutions():
    x = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 3))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 4))
    together = jax.jit(jax.vmap(lambda x, k: conv2d(x, k, 2)))(x, kernels)
    np.testing.assert_allclose(together[1], conv2d(x[1], kernels[1], 2), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(6, 7), (5, 4), (1, 2)])
def test_max_pool_is_the_reduction_over_windows(height, width):
    def stock(x):
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding=pads
        )

    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    y, vjp = jax.vjp(lambda x: max_pool(x, -jnp.inf), x)
    expected, stock_vjp = jax.vjp(stock, x)
    np.testing.assert_array_equal(y, expected)
    dy = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    np.testing.assert_allclose(vjp(dy)[0], stock_vjp(dy)[0], atol=1e-6)


def test_what_surrounds_the_pool_counts():
    x = -jnp.ones((1, 4, 4, 1))
    assert np.all(max_pool(x, -jnp.inf) == -1)
    assert np.array_equal(max_pool(x, 0.0)[0, :, :, 0], [[0, 0], [0, -1]])
