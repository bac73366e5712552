"""Parity with PyTorch's Moshi without PyTorch: see make_mimi.py."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from moshijax.codec.config import PRESETS
from moshijax.convert.mimi import load_mimi
from moshijax.convert.safetensors import Lazy, write_safetensors
from tests import contract
from tests.codes import assert_codes_vary, assert_same_codes


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "mimi.npz") as file:
        return dict(file)


def load(folder):
    weights = {name[2:]: array for name, array in golden().items() if name.startswith("w:")}
    tensors = {
        name: Lazy(array.shape, array.dtype, lambda array=array: array)
        for name, array in weights.items()
    }
    write_safetensors(folder / "tiny.safetensors", tensors, {})
    return load_mimi(folder / "tiny.safetensors", PRESETS["tiny"], inference=True)


def test_mimi_computes_what_pytorch_computes(tmp_path):
    mimi, data = load(tmp_path), golden()
    audio = jnp.asarray(data["audio"])
    steps = data["latents"].shape[1] * mimi.config.resample_stride
    assert steps > 2 * mimi.config.transformer.context
    padded = jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % mimi.config.frame_size), (0, 0)))
    latents, _ = contract.run(mimi.encoder, padded, None)
    np.testing.assert_allclose(latents, data["latents"], atol=1e-5)
    codes, _ = jax.jit(lambda m, x: m.encode(x, num_codebooks=4))(mimi, audio)
    assert_codes_vary(data["codes"], least=0.1)
    assert assert_same_codes(codes, data["codes"], mimi.quantizer, latents) > 0.95
    sound, _ = jax.jit(lambda m, codes: m.decode(codes))(mimi, jnp.asarray(data["codes"]))
    np.testing.assert_allclose(sound, data["sound"], atol=1e-5)
