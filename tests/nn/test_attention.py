import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from moshijax.kernels.rope import rotate
from moshijax.nn.attention import SlidingAttention
from moshijax.nn.streaming import batch_axes
from tests import contract


pytestmark = pytest.mark.usefixtures("strict_dtypes")

CONTEXT = 4
LENGTH = 12
module = SlidingAttention(8, 2, context=CONTEXT, max_period=10000.0, rngs=nnx.Rngs(0))
x = jax.random.normal(jax.random.key(1), (2, LENGTH, 8))
cuts = st.permutations([1, 1, 5, 5]) | st.sampled_from([[12], [1] * 12])


@given(sizes=cuts)
def test_attention_streams(sizes):
    contract.assert_streams(module, x, sizes, module.init_state(2, LENGTH))


def test_cache_sized_for_the_chunk_suffices():
    contract.assert_streams(module, x, [5, 1, 5, 1], module.init_state(2, 5))


def test_gradients_of_chunks_are_those_of_the_whole():
    contract.assert_same_gradients(module, x, [5, 7], module.init_state(2, 7))


def test_rows_restart_and_pause():
    axes = batch_axes(module.init_state)
    contract.assert_rows_restart_and_pause(module, x, 3, module.init_state(2, 3), axes)


def test_paused_row_may_sit_out_many_steps():
    # Its slots are written at each step it sits out; none may come into its window.
    from moshijax.nn.streaming import hold_rows

    axes = batch_axes(module.init_state)
    want, _ = contract.stream(module, x, [3, 3, 3, 3], module.init_state(2, 3))
    state = module.init_state(2, 3)
    outputs = []
    for step in range(4):
        chunk = x[:, 3 * step : 3 * step + 3]
        for _ in range(3):
            _, new = contract.run(module, 9 * jnp.ones_like(chunk), state)
            state = hold_rows(jnp.zeros(2, bool), new, state, axes)
        y, state = contract.run(module, chunk, state)
        outputs.append(y)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), want, atol=1e-6)


@pytest.mark.parametrize("length", [7, 8, 9, 13])
def test_banded_attention_is_masked_attention(length):
    x = jax.random.normal(jax.random.key(2), (2, length, 8))
    q, k, v = (x @ p.kernel[...] for p in (module.q, module.k, module.v))
    q, k, v = (a.reshape(2, length, 2, 4) for a in (q, k, v))
    positions = jnp.arange(length)[None]
    q, k = rotate(q, positions, 10000.0), rotate(k, positions, 10000.0)
    ages = np.arange(length)[:, None] - np.arange(length)[None]
    logits = np.einsum("btnh,bsnh->bnts", q, k) / 2
    logits = np.where((ages >= 0) & (ages < CONTEXT), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    want = np.einsum("bnts,bsnh->btnh", weights, v).reshape(x.shape) @ module.out.kernel[...]
    np.testing.assert_allclose(contract.run(module, x, None)[0], want, atol=1e-5)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="chunk of 3 frames; init_state made room for 2"):
        module(x[:, :3], module.init_state(2, 2))
    with pytest.raises(ValueError, match="dim 9 is no multiple of num_heads 2"):
        SlidingAttention(9, 2, context=3, max_period=None, rngs=nnx.Rngs(0))
