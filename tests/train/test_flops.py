import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moshijax.train import flops


def test_loops_and_gradients_are_multiplied_out():
    x, w = jnp.ones((3, 4)), jnp.ones((5, 4, 4))

    def scanned(w):
        return jax.lax.scan(lambda x, layer: (x @ layer, None), x, w)[0].sum()

    assert flops.own_flops(scanned, w) == 5 * 2 * 3 * 4 * 4
    # Backwards, each layer needs two products; the first input needs no gradient of its own.
    assert flops.own_flops(jax.grad(scanned), w) == 3 * 5 * 2 * 3 * 4 * 4


def test_convolutions_and_branches():
    x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16))

    def convolve(x, stride):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (stride, stride), "SAME", dimension_numbers=dims)

    assert flops.own_flops(lambda x: convolve(x, 1), x) == 2 * 2 * 64 * 16 * 27
    assert flops.own_flops(lambda x: convolve(x, 2), x) == 2 * 2 * 16 * 16 * 27

    def either(x):
        return jax.lax.cond(
            x[0, 0, 0, 0] > 0, lambda: convolve(x, 1), lambda: x[..., :1] * jnp.ones((1, 1, 1, 16))
        )

    assert flops.own_flops(either, x) == 2 * 2 * 64 * 16 * 27


def test_what_is_recomputed_is_no_work_of_the_model():
    x, w = jnp.ones((3, 4)), jnp.ones((5, 4, 4))

    def scanned(w):
        layer = jax.checkpoint(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))
        return jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0].sum()

    jaxpr = jax.make_jaxpr(jax.grad(scanned))(w).jaxpr
    once = 5 * 2 * 3 * 4 * 4
    assert flops.count(jaxpr, recomputed=False) == 6 * once
    assert flops.count(jaxpr) == 8 * once


def test_kernels_run_over_their_grid_and_shards_on_every_device():
    def kernel(x, w, y):
        y[...] = x[...] @ w[...]

    whole = pl.BlockSpec((8, 8), lambda i: (0, 0))
    rows = pl.BlockSpec((8, 8), lambda i: (i, 0))

    def product(x, w):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        call = pl.pallas_call(
            kernel, grid=x.shape[0] // 8, in_specs=[rows, whole], out_specs=rows, out_shape=shape
        )
        return call(x, w) @ w

    x, w = jnp.ones((32, 8)), jnp.ones((8, 8))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(product, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"),
                          check_vma=False)  # fmt: skip
    for function in (product, split):
        jaxpr = jax.make_jaxpr(function)(x, w).jaxpr
        assert flops.count(jaxpr) == 2 * 2 * 32 * 8 * 8
        assert flops.count_kernels(jaxpr) == 2 * 32 * 8 * 8


def test_peak_of_a_cpu_is_measured_and_finite():
    assert 1e8 < flops.peak_flops(jax.devices()) < 1e14
