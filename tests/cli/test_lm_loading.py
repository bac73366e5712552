import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.cli import lm, lm_loading
from moshijax.cli.lm_loading import find_config, find_sampling, open_model
from moshijax.codec.config import PRESETS as MIMI
from moshijax.convert.lm import save_lm
from moshijax.convert.lm.config import to_moshi
from moshijax.convert.mimi.config import transformers_config
from moshijax.live.session import Session
from moshijax.lm.sampling import Sampling
from moshijax.nn.lora import adapters, add_lora, fuse_lora
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import bits_of, quantize
from moshijax.nn.transformer import unstack
from moshijax.system.errors import UserError
from tests.lm_models import random_model


def words(lm, **more):
    usual = {"preset": None, "text_only": True, "tokenizer": None, "dtype": None, "bits": None}
    return argparse.Namespace(**{"lm": str(lm), "seed": 0, "mimi_preset": "mimi"} | usual | more)


def sampling(lm, **given):
    names = ("text_temperature", "text_top_k", "audio_temperature", "audio_top_k")
    return find_sampling(words(lm, top_p=1.0, **dict.fromkeys(names) | given))


def opened(lm, **more):
    args = words(lm, **more)
    return open_model(args, find_config(args, None))


def describe(folder, fields):
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_random_weights_have_the_type_asked_for(dtype):
    leaves = named_leaves(opened("random", dtype=dtype))
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype(dtype or "float32")}


@pytest.mark.parametrize("bits", [8, 4])
def test_random_and_loaded_weights_take_few_bits(bits, tmp_path):
    assert bits_of(opened("random", bits=bits)) == {bits}
    save_lm(random_model("helium_2b"), tmp_path, layout="transformers")
    model = opened(tmp_path, bits=bits)
    assert bits_of(model) == {bits}
    want = quantize(unstack(random_model("helium_2b")), bits)
    name = "temporal/text_head/kernel/values"
    np.testing.assert_array_equal(named_leaves(model)[name], named_leaves(want)[name])


def test_a_quantised_file_is_not_taken_for_one_of_other_bits(tmp_path):
    path = save_lm(quantize(random_model("helium_2b")), tmp_path / "model.safetensors")
    describe(tmp_path, to_moshi(random_model("helium_2b").config))
    assert bits_of(opened(path)) == bits_of(opened(path, bits=8)) == {8}
    with pytest.raises(UserError, match=r"--bits 4: --lm .*model.safetensors is of 8 bits already"):
        opened(path, bits=4)


def test_adapters_are_fused_with_the_scale_beside_them(tmp_path):
    model = add_lora(random_model("helium_2b"), 3, 8.0, jax.random.key(0))
    leaves = {n: x + 0.1 for n, x in adapters(model).items() if n.endswith("/b")}
    for name, leaf in leaves.items():
        found = model
        for word in name.split("/")[:-1]:
            found = getattr(found, word)
        found.b[...] = leaf
    path = save_lm(model, tmp_path / "model.safetensors")
    describe(tmp_path, to_moshi(model.config) | {"lora": True, "lora_rank": 3, "lora_scaling": 8})
    want = named_leaves(unstack(fuse_lora(model)))
    for name, leaf in named_leaves(opened(path)).items():
        np.testing.assert_allclose(leaf, want[name], atol=1e-5, err_msg=name)
    assert bits_of(opened(path, bits=4)) == {4}


def test_a_folder_written_for_transformers_is_read(tmp_path):
    model = random_model("helium_2b")
    save_lm(model, tmp_path, layout="transformers")
    assert find_config(words(tmp_path), None).dim == model.config.dim
    leaves = named_leaves(opened(tmp_path))
    want = named_leaves(unstack(model))
    # But for the vector that begins a text, which transformers has not.
    del want["temporal/text_embedding/table"]
    for name, leaf in want.items():
        np.testing.assert_array_equal(leaves[name], leaf, err_msg=name)


def test_what_is_no_language_model_is_refused_by_name(tmp_path):
    describe(tmp_path, transformers_config(MIMI["tiny"]))
    with pytest.raises(UserError, match=r"config.json is of Mimi, the codec.*give it as --mimi"):
        find_config(words(tmp_path), None)
    describe(tmp_path, {"model_type": "llama", "hidden_size": 8})
    with pytest.raises(UserError, match=r'has model_type "llama", which is no model.*known are'):
        find_config(words(tmp_path), None)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"config.json is a folder"):
        find_config(words(tmp_path), None)


@pytest.mark.parametrize("preset", [None, "helium_2b"])
def test_weights_that_are_not_there_are_missed_before_their_structure(tmp_path, preset):
    with pytest.raises(UserError, match=r"^--lm .*none: there is no such file or folder; check"):
        find_config(words(tmp_path / "none", preset=preset), None)


def test_codes_are_drawn_as_the_config_beside_the_weights_tells(tmp_path):
    structure = to_moshi(random_model("stt_1b").config)
    describe(tmp_path, structure)
    usual = (Sampling(0.7, 25), Sampling(0.8, 250))
    assert sampling(tmp_path) == sampling("random") == usual
    # As speech to text is published.
    told = {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50}
    describe(tmp_path, structure | {"lm_gen_config": told})
    assert sampling(tmp_path) == (Sampling(0.0, 50), Sampling(0.0, 250))
    assert sampling(tmp_path, preset="stt_1b") == usual
    # What is typed counts, a default of Moshi's too.
    given = sampling(tmp_path, text_temperature=0.7, audio_top_k=0)
    assert given == (Sampling(0.7, 50), Sampling(0.0, 0))
    describe(tmp_path, structure | {"lm_gen_config": {"temp": 0.6, "use_sampling": False}})
    assert sampling(tmp_path) == (Sampling(0.0, 25), Sampling(0.0, 250))


def test_a_session_draws_as_told(tmp_path, monkeypatch):
    config = random_model("stt_1b").config
    describe(tmp_path, to_moshi(config) | {"lm_gen_config": {"temp_text": 0.0}})
    seen = []
    monkeypatch.setattr(lm_loading, "open_model", lambda *_: None)
    monkeypatch.setattr(Session, "__init__", lambda s, model, settings, **_: seen.append(settings))
    args = lm.parser().parse_args(["--lm", str(tmp_path), "user.wav", "--top-p=0.5"])
    lm_loading.open_session(args, config)
    assert seen[0].text == Sampling(0.0, 25, 0.5)
    assert seen[0].audio == Sampling(0.8, 250, 0.5)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"temp": -1}, r"lm_gen_config.temp is -1; it must be a number from 0"),
        ({"top_k_text": 2.5}, r"lm_gen_config.top_k_text is 2.5; it must be a whole number"),
        ({"temp_txt": 1}, r"lm_gen_config.temp_txt is unknown here: take it out; known are"),
        ([], r"lm_gen_config is \[\]; it must be an object"),
    ],
)
def test_what_nobody_can_draw_by_is_refused(told, message, tmp_path):
    describe(tmp_path, to_moshi(random_model("stt_1b").config) | {"lm_gen_config": told})
    with pytest.raises(UserError, match=message):
        sampling(tmp_path)
