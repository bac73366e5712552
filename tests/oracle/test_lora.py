"""Adapters against Moshi's own PyTorch code: fused and not, through files both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from moshi.models import loaders
from safetensors.torch import save_file

from moshijax.convert.lm import load_lm, save_lm
from moshijax.convert.lm.lora import load_lora, save_lora
from moshijax.convert.safetensors import Safetensors
from moshijax.lm.conditioning import read_values
from moshijax.nn.lora import adapters, add_lora, fuse_lora, with_adapters
from moshijax.nn.paths import named_leaves
from tests.lm_models import random_codes, random_model
from tests.oracle import torch_lm


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

RANK, SCALING = 3, 2.0
VALUES = ["very_good", None]
logits = jax.jit(lambda model, codes, conditions: model.logits(codes, conditions))


@functools.cache
def adapted(name):
    model = add_lora(random_model(name), RANK, SCALING, jax.random.key(0))
    rng = np.random.default_rng(0)
    trained = {
        n: jnp.array(rng.normal(size=x.shape, scale=0.1), x.dtype)
        for n, x in adapters(model).items()
        if n.endswith("/b")
    }
    return with_adapters(model, adapters(model) | trained)


def theirs(name, folder, fuse=False):
    """Their model from our two files."""
    model = adapted(name)
    path = save_lm(random_model(name), folder / "base.safetensors")
    return loaders.get_lora_moshi(
        torch_lm.load(path, model.config),
        str(save_lora(model, folder / "lora.safetensors")),
        RANK,
        SCALING,
        torch.float32,
        "cpu",
        fuse_lora=fuse,
    )


def assert_same_logits(model, reference):
    config = model.config
    codes = random_codes(config, 2, 12)
    rows = [{c.name: value for c in config.conditions} for value in VALUES]
    conditions = {c.name: read_values(c, VALUES) for c in config.conditions}
    text, text_mask, audio, audio_mask = torch_lm.logits(reference, codes, rows)
    ours = logits(model, codes, conditions)
    np.testing.assert_allclose(ours.text[text_mask], text[text_mask], atol=1e-5)
    if audio is not None:
        np.testing.assert_allclose(ours.audio[audio_mask], audio[audio_mask], atol=1e-5)


@pytest.mark.parametrize("name", ["moshi_7b", "hibiki_2b", "stt_1b"])
def test_adapted_and_fused_models_are_theirs(name, tmp_path):
    reference = theirs(name, tmp_path)
    model = adapted(name)
    assert_same_logits(model, reference)
    fused = theirs(name, tmp_path, fuse=True)
    assert not any("lora" in key for key in fused.state_dict())
    assert_same_logits(fuse_lora(model), fused)


@pytest.mark.parametrize("name", ["moshi_7b", "tts_1_6b"])
def test_their_files_are_read(name, tmp_path):
    reference = theirs(name, tmp_path)
    state = {key: x.contiguous() for key, x in reference.state_dict().items()}
    assert any(key.endswith("in_projs.0.frozen_W.weight") for key in state)
    save_file(state, tmp_path / "whole.safetensors")
    whole = load_lm(tmp_path / "whole.safetensors", adapted(name).config, lora_scaling=SCALING)
    alone = {key: x for key, x in state.items() if "lora" in key}
    assert alone.keys() == Safetensors(tmp_path / "lora.safetensors").keys()
    save_file(alone, tmp_path / "alone.safetensors")
    loaded = load_lora(tmp_path / "alone.safetensors", random_model(name), scaling=SCALING)
    for read in (whole, loaded):
        got = named_leaves(read)
        for path, leaf in named_leaves(adapted(name)).items():
            np.testing.assert_array_equal(got[path], leaf, err_msg=path)
    again = save_lm(whole, tmp_path / "again.safetensors", layout="torch")
    assert {k: v.tobytes() for k, v in Safetensors(again).items()} == {
        k: v.numpy().tobytes() for k, v in state.items()
    }
