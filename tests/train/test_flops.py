import jax
import jax.numpy as jnp

from moshijax.train import flops


def test_loops_and_gradients_are_multiplied_out():
    x, w = jnp.ones((3, 4)), jnp.ones((5, 4, 4))

    def scanned(w):
        return jax.lax.scan(lambda x, layer: (x @ layer, None), x, w)[0].sum()

    assert flops.count_flops(scanned, w) == 5 * 2 * 3 * 4 * 4
    # Backwards, each layer needs two products; the first input needs no gradient of its own.
    assert flops.count_flops(jax.grad(scanned), w) == 3 * 5 * 2 * 3 * 4 * 4


def test_convolutions_and_branches():
    x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16))

    def convolve(x, stride):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (stride, stride), "SAME", dimension_numbers=dims)

    assert flops.count_flops(lambda x: convolve(x, 1), x) == 2 * 2 * 64 * 16 * 27
    assert flops.count_flops(lambda x: convolve(x, 2), x) == 2 * 2 * 16 * 16 * 27

    def either(x):
        return jax.lax.cond(
            x[0, 0, 0, 0] > 0, lambda: convolve(x, 1), lambda: x[..., :1] * jnp.ones((1, 1, 1, 16))
        )

    assert flops.count_flops(either, x) == 2 * 2 * 64 * 16 * 27


def test_peak_of_a_cpu_is_measured_and_finite():
    assert 1e8 < flops.peak_flops(jax.devices()) < 1e14
