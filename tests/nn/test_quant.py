import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moshijax.nn.linear import Linear
from moshijax.nn.lora import add_lora, fuse_lora
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import PerBlock, PerChannel, bits_of, dequantize, quantize
from moshijax.nn.steps import Embedding, make_linears, map_steps
from moshijax.nn.transformer import Transformer, TransformerConfig, unstack


WAYS = [(8, None), (8, 8), (4, 8)]


@functools.cache
def linear(inputs=64, outputs=24):
    linear = Linear(inputs, outputs, use_bias=False, rngs=nnx.Rngs(0))
    kernel = np.array(linear.kernel[...])
    kernel[:, 3] = 0  # A channel of nothing, and one that lies to one side of zero.
    kernel[:, 5] = np.abs(kernel[:, 5]) + 0.3
    return jax.tree.map(lambda _: jnp.array(kernel), linear)


def frames(inputs=64, dtype=jnp.float32):
    x = np.random.default_rng(1).standard_normal((2, 3, inputs))
    return jnp.array(x, dtype)


def test_channels_are_those_of_numpy():
    kernel = np.array(linear().kernel[...])
    scale = np.abs(kernel).max(axis=0)
    safe = np.where(scale > 0, scale, 1)
    quantised = quantize(linear()).kernel
    np.testing.assert_array_equal(quantised.scale[...], scale)
    want = np.round(kernel / safe * 127)
    assert quantised.values.dtype == jnp.int8
    np.testing.assert_array_equal(quantised.values[...], want)
    np.testing.assert_allclose(quantised.array(), want * scale / 127, rtol=1e-6)
    assert np.abs(kernel - quantised.array()).max() <= (scale / 254).max() * 1.001


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks_keep_every_weight_within_half_a_step(bits):
    kernel = np.array(linear().kernel[...])
    quantised = quantize(linear(), bits, 16).kernel
    assert quantised.scale.shape == quantised.offset.shape == (4, 24)
    assert quantised.values.dtype == {8: jnp.int8, 4: jnp.int4}[bits]
    blocks = kernel.reshape(4, 16, 24)
    scale = np.array(quantised.scale[...]).astype(np.float32)
    offset = np.array(quantised.offset[...]).astype(np.float32)
    values = np.array(quantised.values[...]).astype(np.float32).reshape(4, 16, 24)
    np.testing.assert_allclose(
        quantised.array().reshape(4, 16, 24),
        values * scale[:, None] + offset[:, None],
        atol=1e-6,
    )
    error = np.abs(blocks - np.array(quantised.array()).reshape(4, 16, 24))
    assert np.all(error <= scale[:, None] * 0.5001 + 1e-9)
    # A step is hardly more than the width of the block needs.
    width = (blocks.max(1) - blocks.min(1)) / (2**bits - 1)
    reach = np.abs(blocks).max(1)
    assert np.all(scale <= width * 1.01 + 2**-7 * reach / (2 ** (bits - 1) - 1) + 1e-9)


def test_smaller_blocks_and_more_bits_are_closer():
    kernel = np.array(linear().kernel[...])

    def error(*how):
        return np.square(kernel - np.array(quantize(linear(), *how).kernel.array())).mean()

    assert error(8, 16) < error(8, None) < error(4, 16) < error(4, 64)


@pytest.mark.parametrize("how", WAYS)
def test_multiplying_is_multiplying_by_the_kernel_it_stands_for(how):
    quantised = quantize(linear(), *how)
    want = frames() @ quantised.kernel.array()
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(quantised, frames()), want, atol=2e-5)
    back = dequantize(quantised)
    np.testing.assert_allclose(back.kernel[...], quantised.kernel.array())
    half = quantised(frames(dtype=jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want, atol=0.05)


@pytest.mark.parametrize("how", WAYS)
def test_stacks_lists_and_weight_sets_are_quantised(how):
    linears = make_linears(3, 16, 8, nnx.Rngs(0))
    quantised = quantize(linears, *how)
    x = frames(16)
    for sets in ((0, 1, 2), (0, 2, 2)):
        want = map_steps(dequantize(quantised), x, sets)
        np.testing.assert_allclose(map_steps(quantised, x, sets), want, atol=1e-5)
        listed = nnx.List([jax.tree.map(lambda leaf, i=i: leaf[i], quantised) for i in range(3)])
        np.testing.assert_allclose(map_steps(listed, x, sets), want, atol=1e-5)


@pytest.mark.parametrize("how", WAYS)
def test_a_transformer_stays_close(how):
    config = TransformerConfig(
        dim=32,
        num_heads=2,
        num_layers=2,
        mlp_dim=48,
        context=8,
        norm="rms",
        gated=True,
        layer_scale=None,
        max_period=100.0,
    )
    model = Transformer(config, rngs=nnx.Rngs(0))
    run = jax.jit(lambda model, x: model(x)[0])
    want, quantised = run(model, frames(32)), quantize(model, *how)
    got = run(quantised, frames(32))
    relative = jnp.sqrt(jnp.square(got - want).mean() / jnp.square(want).mean())
    assert 0 < relative < {8: 0.02, 4: 0.2}[how[0]]
    if how == (4, 8):
        np.testing.assert_allclose(run(unstack(quantised), frames(32)), got, atol=1e-5)


@pytest.mark.parametrize(("bits", "each"), [(8, 8), (4, 4)])
def test_a_compiled_program_takes_weights_of_as_many_bits(bits, each):
    model = quantize(linear(), bits, 16)
    program = jax.jit(lambda model: model.kernel.array()).lower(model).compile()
    # 64 x 24 weights, a step and an offset of 16 bits for each block of 16.
    weights, blocks = 64 * 24, 4 * 24
    size = (weights * each + blocks * 2 * 16) // 8
    assert program.memory_analysis().argument_size_in_bytes == size


def test_embeddings_conditioners_and_norms_keep_their_kernels():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.text_embedding = Embedding(8, 8, low_rank=4, rngs=rngs)
            self.conditioners = Linear(8, 8, rngs=rngs)
            self.head = Linear(8, 8, rngs=rngs)

    leaves = named_leaves(quantize(Model(nnx.Rngs(0))))
    assert {name for name in leaves if "kernel" in name} == {
        "text_embedding/low_rank/kernel",
        "conditioners/kernel",
        "head/kernel/values",
        "head/kernel/scale",
    }


def test_a_quantised_model_is_left_as_it_is():
    once = quantize(linear())
    np.testing.assert_array_equal(quantize(once).kernel.values[...], once.kernel.values[...])
    assert isinstance(once.kernel, PerChannel)
    assert isinstance(quantize(linear(), 8, 8).kernel, PerBlock)


@pytest.mark.parametrize(("inputs", "width"), [(64, 32), (56, 28), (24, 24), (40, 20), (37, 1)])
def test_four_bits_take_blocks_of_32_inputs_or_what_divides_them(inputs, width):
    kernel = quantize(linear(inputs), 4).kernel
    assert kernel.values.dtype == jnp.int4
    assert kernel.scale.shape == (inputs // width, 24)
    step = np.repeat(np.array(kernel.scale[...], np.float32), width, axis=0)
    error = np.abs(kernel.array() - linear(inputs).kernel[...])
    assert np.all(error <= step * 0.5001 + 2**-8)


def test_the_bits_of_a_model_are_told():
    assert bits_of(linear()) == set()
    assert [bits_of(quantize(linear(), *how)) for how in WAYS] == [{8}, {8}, {4}]


def test_a_kernel_with_an_adapter_is_not_left_as_it_was():
    adapted = add_lora(linear(), 2, 2.0, jax.random.key(0))
    with pytest.raises(ValueError, match=r"kernel has an adapter: fuse it first, or quantise"):
        quantize(adapted)
    assert bits_of(quantize(fuse_lora(adapted), 4)) == {4}


def test_bits_and_blocks_that_do_not_go_are_refused():
    with pytest.raises(ValueError, match=r"5 bits: take 8 or 4"):
        quantize(linear(), 5, 8)
    with pytest.raises(ValueError, match=r"kernel has 64 inputs, no multiple of the block of 24"):
        quantize(linear(), 8, 24)
