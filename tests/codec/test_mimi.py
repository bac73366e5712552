import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moshijax.codec.config import PRESETS
from moshijax.codec.mimi import for_inference
from moshijax.convert.mimi import abstract_mimi
from moshijax.convert.random import random_mimi
from moshijax.nn.paths import named_leaves
from moshijax.nn.streaming import batch_axes
from tests import contract
from tests.codes import assert_codes_vary, assert_same_codes


pytestmark = pytest.mark.usefixtures("strict_dtypes")

TINY = PRESETS["tiny"]
FRAME = TINY.frame_size
mimi = for_inference(random_mimi(TINY))
audio = jax.random.normal(jax.random.key(0), (2, 12 * FRAME, 1)) * 0.3
latents = jax.random.normal(jax.random.key(1), (2, 12, TINY.dim))
cuts = st.permutations([1, 1, 5, 5]) | st.sampled_from([[12], [5, 5, 1, 1]])
encode = jax.jit(lambda m, x, s, n: m.encode(x, s, num_codebooks=n), static_argnums=3)
decode = jax.jit(lambda m, codes, s: m.decode(codes, s))


@settings(max_examples=10)
@given(sizes=cuts)
def test_encoder_streams(sizes):
    state = mimi.encoder.init_state(2, 12)
    contract.assert_streams(mimi.encoder, audio, [FRAME * size for size in sizes], state)


@settings(max_examples=10)
@given(sizes=cuts)
def test_decoder_streams(sizes):
    contract.assert_streams(mimi.decoder, latents, sizes, mimi.decoder.init_state(2, 12))


@functools.cache
def micro():
    """The smallest Mimi: what a gradient costs to compile is its layers."""
    transformer = dataclasses.replace(TINY.transformer, num_layers=1)
    return random_mimi(dataclasses.replace(TINY, ratios=(3,), transformer=transformer))


def test_gradients_of_chunks_are_those_of_the_whole():
    encoder, decoder = micro().encoder, micro().decoder
    frame = encoder.frame_size
    state = encoder.init_state(2, 3)
    contract.assert_same_gradients(encoder, audio[:, : 6 * frame], [3 * frame, 3 * frame], state)
    state = decoder.init_state(2, 3)
    contract.assert_same_gradients(decoder, latents[:, :6], [3, 3], state)


@functools.cache
def published_window():
    """A small Mimi with the published window of 250 steps."""
    transformer = dataclasses.replace(TINY.transformer, context=250)
    return for_inference(random_mimi(dataclasses.replace(TINY, transformer=transformer), seed=5))


@settings(max_examples=4)
@given(sizes=st.permutations([1, 1, 49, 49, 100, 100]))
def test_streams_past_the_published_window(sizes):
    mimi, frames = published_window(), 300
    assert frames * TINY.resample_stride > 2 * mimi.config.transformer.context
    audio = jax.random.normal(jax.random.key(3), (1, frames * FRAME, 1)) * 0.3
    whole, _ = contract.run(mimi.encoder, audio, None)
    sizes_in_samples = [FRAME * size for size in sizes]
    pieces, _ = contract.stream(
        mimi.encoder, audio, sizes_in_samples, mimi.encoder.init_state(1, 100)
    )
    np.testing.assert_allclose(pieces, whole, atol=2e-5)
    codes = mimi.quantizer.quantize(whole, 4)
    assert_codes_vary(codes, least=0.05)
    sound, _ = decode(mimi, codes, None)
    state, start, chunks = mimi.decoder.init_state(1, 100), 0, []
    for size in sizes:
        chunk, state = decode(mimi, codes[:, :, start : start + size], state)
        chunks.append(chunk)
        start += size
    np.testing.assert_allclose(jnp.concatenate(chunks, 1), sound, atol=1e-5)


def test_codes_stream():
    whole, _ = encode(mimi, audio, None, 4)
    assert_codes_vary(whole)
    state, pieces = mimi.encoder.init_state(2, 6), []
    for start in (0, 6):
        codes, state = encode(mimi, audio[:, start * FRAME : (start + 6) * FRAME], state, 4)
        pieces.append(codes)
    x, _ = contract.run(mimi.encoder, audio, None)
    assert_same_codes(jnp.concatenate(pieces, 2), whole, mimi.quantizer, x)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_rows_restart_and_pause(half):
    module = getattr(mimi, half)
    x, size = (audio, FRAME) if half == "encoder" else (latents, 1)
    axes = batch_axes(module.init_state)
    contract.assert_rows_restart_and_pause(module, x, size, module.init_state(2, 12), axes)


def test_arranging_for_inference_changes_nothing():
    plain = random_mimi(TINY)
    x, _ = contract.run(plain.encoder, audio, None)
    np.testing.assert_allclose(contract.run(mimi.encoder, audio, None)[0], x, atol=1e-5)
    codes, _ = encode(plain, audio, None, 3)
    assert_same_codes(encode(mimi, audio, None, 3)[0], codes, mimi.quantizer, x)
    np.testing.assert_allclose(
        decode(mimi, codes, None)[0], decode(plain, codes, None)[0], atol=1e-5
    )


def test_whole_streams_are_padded_to_whole_frames():
    cut = audio[:, : 3 * FRAME - 7]
    padded = jnp.concatenate([cut, jnp.zeros((2, 7, 1))], axis=1)
    codes, _ = encode(mimi, cut, None, 4)
    assert codes.shape == (2, 4, 3)
    np.testing.assert_array_equal(codes, encode(mimi, padded, None, 4)[0])
    sound = jax.eval_shape(lambda m, x: m.reconstruct(x, num_codebooks=4), mimi, cut)
    assert sound.shape == cut.shape


def test_more_codebooks_reconstruct_the_latent_better():
    x, _ = contract.run(mimi.encoder, audio, None)
    acoustic = mimi.quantizer.acoustic
    want = x @ acoustic.project_in.kernel[...]
    errors = []
    for n in (1, 2, 3):
        codes = acoustic.quantize(x, n)
        got = sum(acoustic.codebooks[k].vectors()[codes[:, k]] for k in range(n))
        errors.append(float(jnp.square(got - want).mean()))
    assert errors == sorted(errors, reverse=True)


def test_published_size_has_the_published_number_of_parameters():
    leaves = named_leaves(abstract_mimi(PRESETS["mimi"]))
    books = {name: leaf.size for name, leaf in leaves.items() if "/codebooks/" in name}
    assert sum(leaf.size for leaf in leaves.values()) == 96_151_393
    assert sum(leaf.size for leaf in leaves.values()) - sum(books.values()) == 79_308_609
    config = PRESETS["mimi"]
    assert (config.frame_size, config.frame_rate) == (1920, 12.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_whole_frames(preset):
    config = PRESETS[preset]
    model = abstract_mimi(config)
    x = jax.ShapeDtypeStruct((2, 3 * config.frame_size, 1), jnp.float32)
    codes = jax.eval_shape(lambda m, x: m.encode(x, num_codebooks=2)[0], model, x)
    assert codes.shape == (2, 2, 3)
    assert jax.eval_shape(lambda m, c: m.decode(c)[0], model, codes).shape == x.shape


def test_unfit_audio_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="audio has 2 channels; Mimi is mono, so mix them"):
        mimi.encode(jnp.zeros((1, FRAME, 2)))
    with pytest.raises(ValueError, match="0 samples are no whole number of frames of 24"):
        mimi.encode(jnp.zeros((1, 0, 1)), num_codebooks=4)
    with pytest.raises(ValueError, match="50 samples are no whole number of frames of 24; pad"):
        mimi.encode(jnp.zeros((1, 50, 1)), mimi.encoder.init_state(1), num_codebooks=4)
    with pytest.raises(ValueError, match="5 codebooks asked for; this model has 1 to 4"):
        mimi.encode(jnp.zeros((1, FRAME, 1)), num_codebooks=5)
