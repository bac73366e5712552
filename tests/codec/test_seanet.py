import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from moshijax.codec.config import PRESETS
from moshijax.codec.seanet import SeanetDecoder, SeanetEncoder, elu
from tests import contract


pytestmark = pytest.mark.usefixtures("strict_dtypes")

TINY = PRESETS["tiny"]
HOP = TINY.frame_size // TINY.resample_stride
encoder = SeanetEncoder(TINY, rngs=nnx.Rngs(0))
decoder = SeanetDecoder(TINY, rngs=nnx.Rngs(1))
audio = jax.random.normal(jax.random.key(0), (2, 8 * HOP, 1))
latents = jax.random.normal(jax.random.key(1), (2, 8, TINY.dim))
cuts = st.permutations([1, 1, 3, 3]) | st.sampled_from([[8], [3, 3, 1, 1]])


@settings(max_examples=10)
@given(sizes=cuts)
def test_encoder_streams(sizes):
    state = encoder.init_state(2)
    contract.assert_streams(encoder, audio, [HOP * size for size in sizes], state)


@settings(max_examples=10)
@given(sizes=cuts)
def test_decoder_streams(sizes):
    contract.assert_streams(decoder, latents, sizes, decoder.init_state(2))


def test_gradients_of_chunks_are_those_of_the_whole():
    small = dataclasses.replace(TINY, ratios=(3,))
    encoder = SeanetEncoder(small, rngs=nnx.Rngs(0))
    contract.assert_same_gradients(encoder, audio[:, :12], [6, 6], encoder.init_state(2))
    decoder = SeanetDecoder(small, rngs=nnx.Rngs(1))
    contract.assert_same_gradients(decoder, latents[:, :4], [2, 2], decoder.init_state(2))


def test_lengths_follow_the_ratios():
    assert contract.run(encoder, audio, None)[0].shape == (2, 8, TINY.dim)
    assert contract.run(decoder, latents, None)[0].shape == audio.shape


def test_elu_is_elu():
    x = np.linspace(-5, 5, 101, dtype=np.float32)
    np.testing.assert_allclose(elu(jax.numpy.asarray(x)), jax.nn.elu(x), atol=2e-7)
    assert jax.grad(lambda x: elu(x))(np.float32(200.0)) == 1
