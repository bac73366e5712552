import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moshijax.nn.linear import Linear
from moshijax.nn.lora import (
    FROZEN,
    adapters,
    add_lora,
    fuse_lora,
    share_adapters,
    with_adapters,
)
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import quantize
from moshijax.nn.steps import make_linears, map_steps
from moshijax.nn.transformer import Transformer, TransformerConfig, stack, unstack
from moshijax.shard import match_one


RANK, SCALING = 3, 2.0


@functools.cache
def transformer():
    config = TransformerConfig(
        dim=16,
        num_heads=2,
        num_layers=2,
        mlp_dim=24,
        context=8,
        norm="rms",
        gated=True,
        layer_scale=None,
        max_period=100.0,
    )
    return Transformer(config, rngs=nnx.Rngs(0))


def adapted(model, seed=0):
    """The model with adapters that do something."""
    model = add_lora(model, RANK, SCALING, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    found = adapters(model)
    b = {
        n: jnp.array(rng.normal(size=x.shape, scale=0.3), x.dtype)
        for n, x in found.items()
        if n[-1] == "b"
    }
    return with_adapters(model, found | b)


run = jax.jit(lambda model, x: model(x)[0])


def frames(seed=1):
    return jnp.array(np.random.default_rng(seed).standard_normal((2, 5, 16)), jnp.float32)


def test_a_second_adapter_is_refused():
    model = add_lora(transformer(), RANK, SCALING, jax.random.key(0))
    with pytest.raises(ValueError, match="kernel has an adapter already: fuse that first"):
        add_lora(model, RANK, SCALING, jax.random.key(1))


def test_an_adapter_begins_as_nothing():
    model = add_lora(transformer(), RANK, SCALING, jax.random.key(0))
    np.testing.assert_array_equal(run(model, frames()), run(transformer(), frames()))
    a = named_leaves(model)["layers/attention/q/kernel/a"]
    assert a.shape == (2, 16, RANK)
    assert 0.2 < jnp.abs(a).max() <= 0.25  # one over the root of 16 inputs
    assert not np.array_equal(a[0], a[1])


def test_an_adapter_adds_its_scaled_product():
    linear = adapted(Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0)))
    x = np.ones((1, 2, 6), np.float32)
    kernel = linear.kernel
    want = x @ kernel.frozen[...] + (x @ kernel.a[...]) @ kernel.b[...] * SCALING
    np.testing.assert_allclose(linear(jnp.array(x)), want, atol=1e-5)


def test_fusing_gives_the_same_function_and_tree_as_before_adapters():
    model = adapted(transformer())
    fused = fuse_lora(model)
    assert named_leaves(fused).keys() == named_leaves(transformer()).keys()
    want = run(model, frames())
    assert np.abs(want - run(transformer(), frames())).max() > 0.1
    np.testing.assert_allclose(run(fused, frames()), want, rtol=1e-5, atol=2e-5)


def test_adapters_are_the_same_in_stacks_and_lists():
    model = adapted(transformer())
    want = run(model, frames())
    np.testing.assert_allclose(run(unstack(model), frames()), want, rtol=1e-5, atol=1e-5)
    again = named_leaves(stack(unstack(model)))
    for name, leaf in named_leaves(model).items():
        np.testing.assert_array_equal(again[name], leaf)


@pytest.mark.parametrize("sets", [(0, 1, 2), (0, 1, 1), (2,)])
def test_weight_sets_have_adapters_of_their_own(sets):
    linears = adapted(make_linears(3, 6, 4, nnx.Rngs(0)))
    x = jnp.array(np.random.default_rng(0).standard_normal((2, len(sets), 6)), jnp.float32)
    want = map_steps(fuse_lora(linears), x, sets)
    np.testing.assert_allclose(map_steps(linears, x, sets), want, atol=1e-5)
    listed = nnx.List([jax.tree.map(lambda leaf, i=i: leaf[i], linears) for i in range(3)])
    np.testing.assert_allclose(map_steps(listed, x, sets), want, atol=1e-5)


def test_one_a_serves_q_k_and_v_and_its_gradient_is_of_all_three():
    model = add_lora(transformer(), RANK, SCALING, jax.random.key(0))
    leaves = named_leaves(model)
    for part in "kv":
        name = f"layers/attention/{part}/kernel/a"
        np.testing.assert_array_equal(leaves[name], leaves["layers/attention/q/kernel/a"])
    np.testing.assert_array_equal(
        leaves["layers/mlp/up/kernel/a"], leaves["layers/mlp/gate/kernel/a"]
    )
    model = adapted(transformer())

    def loss(trained, share):
        return jnp.square(run(share(with_adapters(model, trained)), frames())).sum()

    own = jax.grad(loss)(adapters(model), lambda model: model)
    shared = jax.grad(loss)(adapters(model), share_adapters)
    name = "layers/attention/{}/kernel/a"
    want = sum(own[name.format(part)] for part in "qkv")
    np.testing.assert_allclose(shared[name.format("q")], want, rtol=1e-4, atol=1e-4)
    assert not np.any(shared[name.format("k")])


def test_the_table_of_names_freezes_all_but_adapters():
    names = named_leaves(add_lora(transformer(), RANK, SCALING, jax.random.key(0)))
    trained = {name for name in names if not match_one(name, FROZEN, "frozen")}
    assert trained == adapters(adapted(transformer())).keys()
    assert len(trained) == 14


def test_quantised_kernels_take_adapters_but_do_not_fuse():
    quantised = quantize(transformer())
    model = adapted(quantised)
    assert np.abs(run(model, frames()) - run(quantised, frames())).max() > 0.1
    gradient = jax.grad(lambda t: run(with_adapters(model, t), frames()).sum())(adapters(model))
    assert all(np.any(g) for name, g in gradient.items())
    with pytest.raises(ValueError, match=r"/kernel is quantised.*fuse first, then quantise"):
        fuse_lora(model)
