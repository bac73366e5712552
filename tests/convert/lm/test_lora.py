"""Adapters of a language model: their scale, and what else lies in their files."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from moshijax.convert.lm import load_lm, save_lm
from moshijax.convert.lm.config import to_moshi
from moshijax.convert.lm.lora import load_lora, save_lora
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.nn.lora import adapters, scaling_of
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import quantize
from moshijax.nn.transformer import unstack
from moshijax.system.errors import UserError
from tests.convert.lm.test_forms import adapted
from tests.convert.lm.test_model import assert_equal_models, narrow
from tests.lm_models import random_model


SCALE = 8.0
LORA = {"lora": True, "lora_rank": 3, "lora_scaling": SCALE}


def rewrite(path, change=None):
    """The file as other programs write it: without our metadata, perhaps with other tensors."""
    arrays = {name: np.array(array) for name, array in Safetensors(path).items()}
    if change:
        change(arrays)
    lazy = {name: Lazy(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    write_safetensors(path, lazy, {})
    return path


def describe(folder, **fields):
    (folder / "config.json").write_text(json.dumps(to_moshi(adapted("stt_1b").config) | fields))


def files(folder):
    """A whole model with adapters, and the adapters alone, as others write them."""
    model = adapted("stt_1b")
    whole = rewrite(save_lm(model, folder / "model.safetensors", layout="torch"))
    return whole, rewrite(save_lora(model, folder / "lora.safetensors"))


def scalings(folder, given=None):
    """The scaling of either file as it is loaded."""
    whole, alone = folder / "model.safetensors", folder / "lora.safetensors"
    base = random_model("stt_1b")
    models = (
        load_lm(whole, base.config, lora_scaling=given),
        load_lora(alone, base, scaling=given),
    )
    return [scaling_of(model) for model in models]


def test_the_scale_beside_adapters_is_used_and_a_given_one_wins(tmp_path):
    files(tmp_path)
    assert scalings(tmp_path) == [2.0, 2.0]
    describe(tmp_path)
    assert scalings(tmp_path) == [2.0, 2.0]
    describe(tmp_path, **LORA)
    assert scalings(tmp_path) == [SCALE, SCALE]
    assert scalings(tmp_path, 3.0) == [3.0, 3.0]


def test_our_own_files_tell_the_scale_themselves(tmp_path):
    model = jax.tree.map(lambda x: x, adapted("stt_1b"))
    for node in jax.tree.leaves(model, is_leaf=lambda node: hasattr(node, "scaling")):
        if hasattr(node, "scaling"):
            node.scaling = SCALE
    save_lm(model, tmp_path / "model.safetensors")
    save_lora(model, tmp_path / "lora.safetensors")
    assert scalings(tmp_path) == [SCALE, SCALE]
    describe(tmp_path, **LORA)
    assert scalings(tmp_path) == [SCALE, SCALE]
    describe(tmp_path, **LORA | {"lora_scaling": 2})
    for load in (scalings, lambda folder: load_lora(folder, random_model("stt_1b"))):
        with pytest.raises(UserError, match=r"config.json: lora_scaling is 2, but .* with 8: "):
            load(tmp_path)
    assert scalings(tmp_path, 2.0) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"lora_scaling": "8"}, r'config.json: lora_scaling is "8"; it must be a number'),
        ({"lora_scaling": float("nan")}, r"lora_scaling is NaN; it must be a number"),
        ({"lora_rank": 4}, r"lora_rank is 4, but the adapters of .* are of rank 3"),
        ({"lora_rank": None}, r"lora_rank is null; it must be a whole number"),
    ],
)
def test_a_scale_or_rank_that_cannot_be_is_refused(fields, says, tmp_path):
    files(tmp_path)
    describe(tmp_path, **LORA | fields)
    for name, load in (("model", load_lm), ("lora", load_lora)):
        model = random_model("stt_1b")
        target = model.config if load is load_lm else model
        with pytest.raises(UserError, match=says):
            load(tmp_path / f"{name}.safetensors", target)


def test_a_models_own_config_does_not_matter_without_adapters(tmp_path):
    model = random_model("stt_1b")
    path = save_lm(model, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("no JSON")
    assert_equal_models(model, load_lm(path, model.config))


@pytest.mark.parametrize("half", [False, True])
def test_whole_tensors_beside_adapters_take_the_models_place(half, tmp_path):
    model = adapted("hibiki_2b")
    rng = np.random.default_rng(0)
    low = "depformer_emb.1.low_rank.frozen_W.weight"
    names = ["text_emb.weight", "depformer_text_emb.weight", low, "text_linear.weight"]
    names += [f"emb.{i}.weight" for i in range(32)] + ["depformer_emb.3.weight"]
    base = Safetensors(save_lm(model, tmp_path / "base.safetensors", layout="torch"))
    new = {}

    def add(arrays):
        for name in names:
            shape = base[name if name in base else "text_linear.frozen_W.weight"].shape
            new[name] = arrays[name] = rng.standard_normal(shape).astype(np.float32)

    path = rewrite(save_lora(model, tmp_path / "lora.safetensors"), add)
    start = random_model("hibiki_2b")
    start = unstack(narrow(start, ml_dtypes.bfloat16)) if half else start
    loaded = load_lora(path, start)
    # Written whole, every tensor is the file's or the model's, and none is left out.
    want = {n: np.array(a) for n, a in base.items()} | new
    want["text_linear.frozen_W.weight"] = want.pop("text_linear.weight")
    dtype = ml_dtypes.bfloat16 if half else np.float32
    saved = Safetensors(save_lm(loaded, tmp_path / "again.safetensors", layout="torch"))
    assert saved.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(saved[name].astype(dtype), array.astype(dtype), err_msg=name)
        assert name.startswith("condition_provider") or saved[name].dtype == dtype


def test_whole_tensors_of_another_shape_or_name_are_refused(tmp_path):
    base = random_model("stt_1b")

    def add(arrays):
        arrays["text_emb.weight"] = np.zeros((3, 32), np.float32)
        arrays["other.weight"] = np.zeros(3, np.float32)

    path = rewrite(save_lora(adapted("stt_1b"), tmp_path / "x"), add)
    with pytest.raises(ValueError, match=r"has besides other.weight; .*misshapen text_emb.weight"):
        load_lora(path, base)


def test_whole_tensors_of_quantised_maps_are_refused(tmp_path):
    base = random_model("stt_1b")

    def add(arrays):
        arrays["text_linear.weight"] = np.zeros((48, 32), np.float32)

    path = rewrite(save_lora(adapted("stt_1b"), tmp_path / "x"), add)
    with pytest.raises(UserError, match=r"text_linear.weight whole, which is quantised in this"):
        load_lora(path, quantize(base))
    path = rewrite(path, lambda arrays: arrays.pop("text_linear.weight"))
    assert adapters(load_lora(path, quantize(base))).keys() == adapters(adapted("stt_1b")).keys()


def test_adapters_are_not_taken_for_a_model(tmp_path):
    path = save_lora(adapted("stt_1b"), tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=r"lora.safetensors holds adapters alone: load the model"):
        load_lm(path, random_model("stt_1b").config)


def test_adapters_of_several_scalings_are_not_saved(tmp_path):
    model = jax.tree.map(lambda x: x, adapted("stt_1b"))
    model.temporal.text_head.kernel.scaling = 3.0
    with pytest.raises(ValueError, match=r"scalings \[2.0, 3.0\]: files have one"):
        save_lora(model, tmp_path / "x")
    assert named_leaves(model).keys() == named_leaves(adapted("stt_1b")).keys()
