import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.vision.conv import conv2d


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
