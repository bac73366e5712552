import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from moshijax import shard
from moshijax.nn.norms import LayerNorm, RMSNorm
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.nn.rules import RULES
from moshijax.nn.streaming import batch_axes
from moshijax.nn.transformer import Transformer, TransformerConfig, stack, unstack
from tests import contract


pytestmark = pytest.mark.usefixtures("strict_dtypes")

LENGTH = 12
MIMI = TransformerConfig(
    dim=8,
    num_heads=2,
    num_layers=2,
    mlp_dim=20,
    context=4,
    norm="layer",
    gated=False,
    layer_scale=0.3,
    max_period=10000.0,
)
MOSHI = dataclasses.replace(MIMI, norm="rms", gated=True, layer_scale=None)
stacked = {
    "mimi": Transformer(MIMI, rngs=nnx.Rngs(0)),
    "moshi": Transformer(MOSHI, rngs=nnx.Rngs(0)),
}
MODULES = stacked | {"list": unstack(stacked["mimi"])}
x = jax.random.normal(jax.random.key(1), (2, LENGTH, 8))
cuts = st.permutations([1, 1, 5, 5]) | st.sampled_from([[12]])


@pytest.mark.parametrize("name", MODULES)
@given(sizes=cuts)
def test_transformer_streams(name, sizes):
    state = MODULES[name].init_state(2, LENGTH)
    contract.assert_streams(MODULES[name], x, sizes, state)


@pytest.mark.parametrize("name", ["mimi", "moshi"])
def test_gradients_of_chunks_are_those_of_the_whole(name):
    state = MODULES[name].init_state(2, 7)
    contract.assert_same_gradients(MODULES[name], x, [5, 7], state)


@pytest.mark.parametrize("name", ["mimi", "list"])
def test_rows_restart_and_pause(name):
    axes = batch_axes(MODULES[name].init_state)
    state = MODULES[name].init_state(2, 3)
    contract.assert_rows_restart_and_pause(MODULES[name], x, 3, state, axes)


def test_stack_and_list_agree():
    np.testing.assert_allclose(MODULES["mimi"](x)[0], MODULES["list"](x)[0], atol=1e-6)


def test_stack_undoes_unstack():
    before, after = named_leaves(MODULES["mimi"]), named_leaves(stack(MODULES["list"]))
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name], leaf)
    assert "layers/attention/q/kernel" in before
    assert "layers/1/attention/q/kernel" in named_leaves(MODULES["list"])


def test_leaves_can_be_replaced_by_path():
    leaves = {name: leaf * 2 for name, leaf in named_leaves(MODULES["mimi"]).items()}
    doubled = with_leaves(MODULES["mimi"], leaves)
    np.testing.assert_array_equal(
        doubled.layers.mlp.up.kernel[...], 2 * MODULES["mimi"].layers.mlp.up.kernel[...]
    )


def test_layers_differ():
    kernel = MODULES["mimi"].layers.mlp.up.kernel[...]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_norms_give_unit_statistics():
    y = LayerNorm(8)(3 + 5 * x)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-3)
    y = RMSNorm(8)(3 + 5 * x)
    np.testing.assert_allclose(jnp.square(y).mean(-1), 1, atol=1e-4)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_norms_compute_in_float32(norm):
    narrow = norm(8)((1000 + x).astype(jnp.bfloat16))
    wide = norm(8)((1000 + x).astype(jnp.bfloat16).astype(jnp.float32))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, rtol=0.01)


def test_bfloat16_stays_near_float32():
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), MODULES["mimi"])
    y, _ = narrow(x.astype(jnp.bfloat16), narrow.init_state(2, LENGTH))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), MODULES["mimi"](x)[0], atol=0.15)


def gradient(mesh, shape):
    """The compiled gradient of a sum over the stack's output, each array split over the mesh."""
    layers = shard.shaped(stacked["moshi"], shard.shard_like(stacked["moshi"], mesh, RULES))
    stream = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, shard.BATCH))

    def run(layers, stream):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jnp.sum(layers(stream)[0] ** 2)

    return jax.jit(jax.grad(run, argnums=(0, 1))).lower(layers, stream).compile()


@pytest.mark.parametrize("length", [1, 30, 32])
def test_a_stack_over_a_tensor_axis_has_the_gradients_of_one_device(length):
    stream = jax.random.normal(jax.random.key(2), (2, length, 8))
    one = shard.make_mesh(dict(data=1), jax.devices()[:1])
    found = []
    for mesh in (one, shard.make_mesh(dict(fsdp=2, tensor=2), jax.devices()[:4])):
        placed = (
            shard.place(stacked["moshi"], mesh, RULES),
            jax.device_put(stream, jax.NamedSharding(mesh, shard.BATCH)),
        )
        found.append(jax.device_get(gradient(mesh, stream.shape)(*placed)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *found)


def test_what_each_block_keeps_for_its_gradient_is_split_over_a_tensor_axis():
    mesh = shard.make_mesh(dict(fsdp=2, tensor=4))
    text = gradient(mesh, (2, 64, 8)).as_text()
    assert "f32[2,1,16,8]" in text  # Inputs of both layers: a row and a quarter of the frames.
    assert "f32[2,1,64,8]" not in text
