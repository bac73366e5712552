import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from moshijax.nn.conv import LONG, CausalConv1d, CausalConvTranspose1d
from moshijax.nn.streaming import batch_axes
from tests import contract


pytestmark = pytest.mark.usefixtures("strict_dtypes")

UNITS = 12
cuts = st.permutations([1, 1, 5, 5]) | st.sampled_from([[12], [1, 1, 5, 5]])


def conv(**options):
    sizes = {"in_channels": 3, "out_channels": 5, "kernel_size": 4} | options
    return CausalConv1d(**sizes, rngs=nnx.Rngs(0))


def transposed(**options):
    sizes = {"in_channels": 6, "out_channels": 4, "kernel_size": 6, "stride": 3} | options
    return CausalConvTranspose1d(**sizes, rngs=nnx.Rngs(0))


MODULES = {
    "plain": conv(),
    "strided": conv(kernel_size=6, stride=3),
    "dilated": conv(kernel_size=3, dilation=4),
    "strided_dilated": conv(kernel_size=3, stride=2, dilation=2, use_bias=False),
    "repeats_first": conv(kernel_size=4, stride=2, repeat_first=True),
    "no_overlap": conv(kernel_size=2, stride=2),
    "transposed": transposed(),
    "transposed_three_taps": transposed(kernel_size=6, stride=2, use_bias=False),
    "depthwise": transposed(out_channels=6, kernel_size=4, stride=2, depthwise=True),
}


def whole(module, seed=0):
    transpose = isinstance(module, CausalConvTranspose1d)
    channels = module.in_channels if transpose else module.kernel.shape[1]
    unit = 1 if transpose else module.stride
    return jax.random.normal(jax.random.key(seed), (2, UNITS * unit, channels)), unit


@pytest.mark.parametrize("name", MODULES)
@given(sizes=cuts)
def test_convolution_streams(name, sizes):
    x, unit = whole(MODULES[name])
    state = MODULES[name].init_state(2)
    contract.assert_streams(MODULES[name], x, [unit * size for size in sizes], state)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_chunks_are_those_of_the_whole(name):
    x, unit = whole(MODULES[name])
    state = MODULES[name].init_state(2)
    contract.assert_same_gradients(MODULES[name], x, [4 * unit, 8 * unit], state)


@pytest.mark.parametrize("name", ["repeats_first", "transposed"])
def test_rows_restart_and_pause(name):
    module = MODULES[name]
    x, unit = whole(module)
    axes = batch_axes(module.init_state)
    contract.assert_rows_restart_and_pause(module, x, 2 * unit, module.init_state(2), axes)


def test_convolution_is_a_weighted_sum_of_the_past():
    module = conv(kernel_size=3, stride=2)
    x, _ = whole(module)
    padded = np.pad(np.asarray(x), ((0, 0), (1, 0), (0, 0)))
    y, _ = module(x)
    windows = [padded[:, 2 * t : 2 * t + 3] for t in range(UNITS)]
    want = np.stack([np.einsum("bkc,kcd->bd", w, module.kernel[...]) for w in windows], axis=1)
    np.testing.assert_allclose(y, want, atol=1e-6)


def test_long_and_short_streams_use_equal_arithmetic():
    module = conv(kernel_size=5, dilation=2)
    x = jax.random.normal(jax.random.key(1), (2, LONG + 40, 3))
    y, _ = module(x)
    head, state = module(x[:, :40], module.init_state(2))
    tail, _ = module(x[:, 40 : LONG - 20], state)
    np.testing.assert_allclose(y[:, : LONG - 20], jnp.concatenate([head, tail], 1), atol=1e-5)


def test_first_input_is_repeated_before_a_stream():
    module = conv(kernel_size=4, stride=2, repeat_first=True, use_bias=False)
    y, _ = module(jnp.ones((2, 6, 3)))
    np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1], y.shape), atol=1e-6)


def test_transposed_convolution_adds_overlapping_kernels():
    module = transposed()
    x, _ = whole(module)
    kernel = np.asarray(module.kernel[...])[::-1].transpose(1, 0, 2, 3).reshape(6, 6, 4)
    want = np.zeros((2, 3 * UNITS + 3, 4))
    for t in range(UNITS):
        want[:, 3 * t : 3 * t + 6] += np.einsum("bc,ckd->bkd", x[:, t], kernel)
    y, _ = module(x)
    np.testing.assert_allclose(y, want[:, : 3 * UNITS], atol=1e-5)


def test_wrong_lengths_and_sizes_are_named():
    with pytest.raises(ValueError, match="chunk of 4 is no multiple of the stride 3"):
        conv(kernel_size=6, stride=3)(jnp.ones((1, 4, 3)))
    with pytest.raises(ValueError, match="kernel_size 2 skips inputs at stride 3"):
        conv(kernel_size=2, stride=3)
    with pytest.raises(ValueError, match="kernel_size 5 is no multiple of stride 3"):
        transposed(kernel_size=5)
    with pytest.raises(ValueError, match="6 channels in and 4 out"):
        transposed(depthwise=True)
    with pytest.raises(ValueError, match="0 inputs"):
        transposed()(jnp.ones((1, 0, 6)))
