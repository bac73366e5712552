"""Mimi against PyTorch's Moshi, Rust's and transformers 5, at the published size.

All read one file that we wrote, of random weights whose codes vary. Past 10 s the others' windows
differ: offline PyTorch and transformers 5 see 250 steps as we do, Rust 251.
"""

import os


os.environ["NO_TORCH_COMPILE"] = "1"

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.codec.config import PRESETS
from moshijax.convert.mimi import load_mimi, save_mimi
from moshijax.convert.random import random_mimi
from moshijax.convert.safetensors import Lazy, write_safetensors
from moshijax.nn.paths import named_leaves
from tests.codes import assert_codes_vary, assert_same_codes
from tests.oracle import torch_mimi


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

CONFIG = PRESETS["mimi"]
TINY = PRESETS["tiny"]
FRAMES = 140  # 280 steps at 25 Hz: past the window of 250
encode = jax.jit(
    lambda m, x, s, n: (m.encoder(x, s), m.encode(x, s, num_codebooks=n)[0]), static_argnums=3
)
decode = jax.jit(lambda m, codes, s: m.decode(codes, s))


@pytest.fixture(scope="module")
def audio():
    samples = np.arange(FRAMES * CONFIG.frame_size) / CONFIG.sample_rate
    noise = np.random.default_rng(0).standard_normal(samples.size)
    voice = np.sin(2 * np.pi * 150 * samples + 3 * np.sin(2 * np.pi * 1.7 * samples))
    mixed = (0.2 * noise + 0.2 * voice) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * samples))
    return mixed.astype(np.float32)[None, :, None]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_mimi(random_mimi(CONFIG), tmp_path_factory.mktemp("mimi") / "mimi.safetensors")


@pytest.fixture(scope="module")
def ours(path, audio):
    mimi = load_mimi(path, CONFIG, inference=True)
    (latents, _), codes = encode(mimi, jnp.asarray(audio), None, 32)
    return mimi, np.asarray(latents), np.asarray(codes)


@pytest.fixture(scope="module")
def theirs(path, audio):
    return torch_mimi.run_offline(path, None, audio, 32)


@pytest.mark.optimised
def test_latents_are_those_of_pytorch(ours, theirs):
    _, latents, _ = ours
    assert 0.3 < theirs["latents"].std() < 3
    np.testing.assert_allclose(latents, theirs["latents"], atol=1e-5, rtol=1e-5)


@pytest.mark.optimised
def test_all_codes_are_those_of_pytorch(ours, theirs):
    mimi, latents, codes = ours
    assert_codes_vary(theirs["codes"])
    assert assert_same_codes(codes, theirs["codes"], mimi.quantizer, latents) > 0.95


@pytest.mark.optimised
def test_sound_is_that_of_pytorch(ours, theirs):
    mimi, _, _ = ours
    sound, _ = decode(mimi, jnp.asarray(theirs["codes"]), None)
    assert 0.05 < theirs["sound"].std() < 1
    np.testing.assert_allclose(sound, theirs["sound"], atol=1e-5)


def test_streams_like_rust_for_ten_seconds(ours, path, audio):
    import rustymimi

    mimi, latents, _ = ours
    rust = rustymimi.Tokenizer(str(path), num_codebooks=8)
    frames, size = 125, CONFIG.frame_size
    state, pieces = mimi.encoder.init_state(1), []
    their_codes, their_sound, sound = [], [], []
    decoder_state = mimi.decoder.init_state(1)
    for i in range(frames):
        chunk = audio[:, i * size : (i + 1) * size]
        (_, state), codes = encode(mimi, jnp.asarray(chunk), state, 8)
        pieces.append(codes)
        theirs = np.asarray(rust.encode_step(np.ascontiguousarray(chunk.transpose(0, 2, 1))))
        their_codes.append(theirs.astype(np.int32))
        their_sound.append(np.asarray(rust.decode_step(theirs)))
        y, decoder_state = decode(mimi, jnp.asarray(their_codes[-1]), decoder_state)
        sound.append(y)
    codes, their_codes = np.concatenate(pieces, 2), np.concatenate(their_codes, 2)
    assert_codes_vary(their_codes)
    assert assert_same_codes(codes, their_codes, mimi.quantizer, latents[:, :frames]) > 0.95
    want = np.concatenate(their_sound, 2).transpose(0, 2, 1)
    np.testing.assert_allclose(np.concatenate(sound, 1), want, atol=1e-5)


def test_streams_like_pytorch_in_other_chunks(ours, path, audio):
    # PyTorch keeps 250 slots, too few past 10 s; ours are 1 and 24 frames long, theirs 1.
    mimi, latents, _ = ours
    frames, size = 50, CONFIG.frame_size
    their_codes, their_sound = torch_mimi.run_streaming(path, None, audio[:, : frames * size], 8)
    states = mimi.encoder.init_state(1, 24), mimi.decoder.init_state(1, 24)
    pieces, sound, start = [], [], 0
    for length in (1, 24, 1, 24):
        chunk = audio[:, start * size : (start + length) * size]
        (_, encoder_state), codes = encode(mimi, jnp.asarray(chunk), states[0], 8)
        these = jnp.asarray(their_codes[:, :, start : start + length])
        y, decoder_state = decode(mimi, these, states[1])
        states = encoder_state, decoder_state
        pieces.append(codes)
        sound.append(y)
        start += length
    assert_codes_vary(their_codes)
    codes = np.concatenate(pieces, 2)
    assert assert_same_codes(codes, their_codes, mimi.quantizer, latents[:, :frames]) > 0.95
    np.testing.assert_allclose(np.concatenate(sound, 1), their_sound, atol=1e-5)


def test_transformers_reads_our_files_and_gives_the_same(ours, audio, tmp_path, path):
    import torch
    import transformers

    mimi, latents, own = ours
    save_mimi(load_mimi(path, CONFIG), tmp_path / "hf", layout="transformers")
    model, faults = transformers.MimiModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(faults.values()), faults
    model.eval()
    with torch.no_grad():
        waveform = torch.from_numpy(np.ascontiguousarray(audio.transpose(0, 2, 1)))
        codes = model.encode(waveform, num_quantizers=8).audio_codes
        sound = model.decode(codes).audio_values.numpy().transpose(0, 2, 1)
    codes = codes.numpy().astype(np.int32)
    assert_codes_vary(codes)
    assert assert_same_codes(own[:, :8], codes, mimi.quantizer, latents) > 0.95
    np.testing.assert_allclose(decode(mimi, jnp.asarray(codes), None)[0], sound, atol=1e-5)


def write(path, state):
    arrays = {name: tensor.detach().numpy() for name, tensor in state.items()}
    lazy = {n: Lazy(a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}
    write_safetensors(path, lazy, {})
    return path


def assert_equal_models(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        np.testing.assert_array_equal(b[name], leaf, err_msg=name)


def test_names_of_a_running_pytorch_model_are_read(tmp_path):
    mimi = random_mimi(TINY, seed=7)
    path = save_mimi(mimi, tmp_path / "tiny.safetensors")
    running = torch_mimi.load(path, torch_mimi.moshi_config(TINY), 4).state_dict()
    assert "encoder_transformer.transformer.layers.0.self_attn.in_projs.0.weight" in running
    assert_equal_models(load_mimi(write(tmp_path / "running.safetensors", running), TINY), mimi)
    exported = save_mimi(mimi, tmp_path / "torch.safetensors", layout="torch")
    import safetensors.torch

    ours = safetensors.torch.load_file(exported)
    assert ours.keys() == running.keys()
    assert all((ours[name] == tensor).all() for name, tensor in running.items())


def test_names_of_a_running_transformers_model_are_read(tmp_path):
    import transformers

    mimi = random_mimi(TINY, seed=8)
    save_mimi(mimi, tmp_path / "hf", layout="transformers")
    model = transformers.MimiModel.from_pretrained(tmp_path / "hf")
    running = write(tmp_path / "running.safetensors", model.state_dict())
    assert_equal_models(load_mimi(running, TINY), mimi)
    model.save_pretrained(tmp_path / "again")
    assert_equal_models(load_mimi(tmp_path / "again" / "model.safetensors", TINY), mimi)


@pytest.mark.parametrize("ratios", [(3, 2), (5,)])
def test_other_sizes_agree_with_pytorch(ratios, tmp_path):
    transformer = dataclasses.replace(TINY.transformer, num_heads=4, context=7)
    config = dataclasses.replace(TINY, ratios=ratios, transformer=transformer, num_codebooks=3)
    mimi = random_mimi(config, seed=1)
    path = save_mimi(mimi, tmp_path / "other.safetensors")
    audio = np.random.default_rng(2).standard_normal((2, 20 * config.frame_size - 3, 1)) * 0.3
    audio = audio.astype(np.float32)
    theirs = torch_mimi.run_offline(path, torch_mimi.moshi_config(config), audio, 3)
    codes, _ = jax.jit(lambda m, x: m.encode(x, num_codebooks=3))(mimi, jnp.asarray(audio))
    assert_same_codes(codes, theirs["codes"], mimi.quantizer, theirs["latents"])
    sound, _ = decode(mimi, jnp.asarray(theirs["codes"]), None)
    np.testing.assert_allclose(sound, theirs["sound"], atol=1e-5)
