import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from moshijax import shard
from moshijax.convert.lm import abstract_lm, load_lm, save_lm
from moshijax.convert.lm.lora import load_lora, save_lora
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.lm.presets import PRESETS
from moshijax.lm.rules import RULES
from moshijax.nn.lora import adapters, add_lora, fuse_lora, share_adapters, with_adapters
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import quantize
from moshijax.nn.transformer import unstack
from tests.convert.files import changed
from tests.convert.lm.test_model import assert_equal_models
from tests.lm_models import random_codes, random_model


LAYOUTS = ["published", "torch"]
CASES = [("moshi_7b", "published"), ("tts_1_6b", "torch"), ("stt_1b", "torch")]


@functools.cache
def adapted(name):
    model = add_lora(random_model(name), 3, 2.0, jax.random.key(0))
    rng = np.random.default_rng(0)
    b = {n: jnp.array(rng.normal(size=x.shape), x.dtype) for n, x in adapters(model).items()}
    return with_adapters(model, adapters(model) | {n: x for n, x in b.items() if n[-1] == "b"})


@functools.cache
def quantized(name):
    return quantize(random_model(name))


@pytest.mark.parametrize(("name", "layout"), CASES)
@pytest.mark.parametrize("form", [adapted, quantized])
def test_whole_models_are_saved_and_loaded_in_either_form(form, name, layout, tmp_path):
    model = form(name)
    path = save_lm(model, tmp_path / "x", layout=layout)
    loaded = load_lm(path, model.config)
    assert_equal_models(model, loaded)
    assert save_lm(loaded, tmp_path / "y", layout=layout).read_bytes() == path.read_bytes()
    if name == "stt_1b":
        assert_equal_models(unstack(model), load_lm(path, model.config, inference=True))
        mesh = shard.make_mesh(dict(fsdp=4, tensor=2))
        assert_equal_models(model, load_lm(path, model.config, mesh=mesh))


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_adapters_are_saved_and_loaded_alone(name, layout, tmp_path):
    model, base = adapted(name), random_model(name)
    path = save_lora(model, tmp_path / "x", layout=layout)
    assert all(".lora_" in name for name in Safetensors(path))
    assert_equal_models(model, load_lora(path, base))
    if name == "moshi_7b":
        listed = unstack(model)
        assert_equal_models(listed, load_lora(path, unstack(base)))
        again = save_lora(listed, tmp_path / "y", layout=layout)
        assert again.read_bytes() == path.read_bytes()


def test_one_matrix_of_a_file_has_one_a(tmp_path):
    model = adapted("moshi_7b")
    file = Safetensors(save_lora(model, tmp_path / "x"))
    name = "depformer.layers.1.self_attn.in_projs.5.lora_{}.weight"
    layers = model.depth.layers
    assert file[name.format("A")].shape == (3, 24)
    for i, part in enumerate("qkv"):
        kernel = getattr(layers, part).kernel
        np.testing.assert_array_equal(file[name.format("A")].T, kernel.a[1, 5])
        rows = np.split(file[name.format("B")], 3)[i]
        np.testing.assert_array_equal(rows.T, kernel.b[1, 5])
    stacked = Safetensors(save_lora(model, tmp_path / "y", layout="published"))
    whole = stacked["depformer.layers.1.self_attn.in_proj.lora_A.weight"]
    np.testing.assert_array_equal(np.split(whole, 8)[5], file[name.format("A")])


def test_adapters_that_drifted_apart_are_not_saved_until_shared(tmp_path):
    model = adapted("stt_1b")
    name = "temporal/transformer/layers/attention/v/kernel/a"
    moved = with_adapters(model, {name: adapters(model)[name] + 1})
    for save in (save_lm, save_lora):
        with pytest.raises(ValueError, match=r"attention/v/kernel/a is not the A that files have"):
            save(moved, tmp_path / "x")
    assert_equal_models(model, share_adapters(moved))
    save_lora(share_adapters(moved), tmp_path / "x")


def test_types_of_adapters_are_the_models_or_as_asked(tmp_path):
    half = np.dtype(ml_dtypes.bfloat16)
    path = save_lora(adapted("stt_1b"), tmp_path / "x", dtype=half)
    assert {entry.dtype for entry in Safetensors(path).entries.values()} == {half}
    loaded = load_lora(path, random_model("stt_1b"))
    for name, leaf in adapters(adapted("stt_1b")).items():
        np.testing.assert_array_equal(named_leaves(loaded)[name], np.asarray(leaf).astype(half))


def test_quantised_files_hold_rows_and_their_largest_weight(tmp_path):
    model = random_model("moshi_7b")
    file = Safetensors(save_lm(quantized("moshi_7b"), tmp_path / "x", dtype=ml_dtypes.bfloat16))
    name = "depformer.layers.1.self_attn.in_proj_weight"
    assert file[name].dtype == np.int8
    assert file[f"{name}_scb"].dtype == np.float32
    plain = Safetensors(save_lm(model, tmp_path / "y"))[name]
    largest = np.abs(plain).max(axis=1)
    np.testing.assert_array_equal(file[f"{name}_scb"], largest)
    np.testing.assert_allclose(file[name], plain * 127 / largest[:, None], atol=0.501)
    assert file["emb.0.weight"].dtype == ml_dtypes.bfloat16
    loaded = load_lm(tmp_path / "x", model.config)
    kernel = loaded.temporal.text_head.kernel
    assert (kernel.values.dtype, kernel.scale.dtype) == (np.int8, np.float32)


def test_quantised_models_stay_close():
    model = random_model("moshi_7b")
    codes = random_codes(model.config, 2, 8)
    run = jax.jit(lambda model, codes: model.logits(codes))
    want = run(model, codes)
    for how, bound in (((8, None), 0.02), ((4, 8), 0.2)):
        got = run(quantize(model, *how), codes)
        for a, b in ((got.text, want.text), (got.audio, want.audio)):
            assert 0 < np.std(a - b) < bound * np.std(b)


@pytest.mark.parametrize("name", ["moshi_7b", "tts_1_6b", "stt_1b"])
def test_every_array_of_either_form_has_one_sharding_rule(name):
    mesh = shard.make_mesh(dict(fsdp=4, tensor=2))
    forms = (
        lambda model: add_lora(model, 8, 2.0, jax.random.key(0)),
        quantize,
        lambda model: quantize(model, 4, 32),
        lambda model: add_lora(quantize(model), 8, 2.0, jax.random.key(0)),
    )
    for form in forms:
        model = jax.eval_shape(form, abstract_lm(PRESETS[name]))
        for arranged in (model, jax.eval_shape(unstack, model)):
            shard.shard_like(arranged, mesh, RULES)


def without(words, path):
    """The file without the tensors whose names end in some words."""

    def drop(arrays):
        for name in [name for name in arrays if name.endswith(words)]:
            del arrays[name]

    return changed(path, drop)


def test_integers_without_their_scales_are_refused(tmp_path):
    path = without("_scb", save_lm(quantized("stt_1b"), tmp_path / "q8.safetensors"))
    with pytest.raises(ValueError, match=r"q8\.safetensors.*it lacks .*weight_scb") as caught:
        load_lm(path, PRESETS["stt_1b_tiny"])
    assert "\n" not in str(caught.value)


def test_blocks_have_no_form_in_files(tmp_path):
    model = quantize(random_model("stt_1b"), 8, 8)
    with pytest.raises(ValueError, match=r"kernel is quantised by blocks, for which files have no"):
        save_lm(model, tmp_path / "x")


def test_adapters_of_other_linear_maps_are_refused(tmp_path):
    base = random_model("stt_1b")
    path = without("linear_out.lora_B.weight", save_lora(adapted("stt_1b"), tmp_path / "x"))
    with pytest.raises(ValueError, match=r"at rank 3: it lacks transformer.*linear_out.lora_B"):
        load_lora(path, base)
    path = save_lora(adapted("moshi_7b"), tmp_path / "lora.safetensors")
    with pytest.raises(
        ValueError, match=r"lora\.safetensors does not fit the linear maps.*give adapters"
    ):
        load_lora(path, base)
    with pytest.raises(ValueError, match=r"this model has adapters already: fuse_lora"):
        load_lora(path, adapted("stt_1b"))
    with pytest.raises(ValueError, match=r"has no adapters to save: add_lora"):
        save_lora(base, tmp_path / "y")
    assert adapters(fuse_lora(adapted("stt_1b"))) == {}


def test_adapters_of_several_ranks_are_refused(tmp_path):
    path = save_lora(adapted("stt_1b"), tmp_path / "x")
    arrays = {name: np.array(array) for name, array in Safetensors(path).items()}
    name = "text_linear.lora_{}.weight"
    arrays[name.format("A")] = np.zeros((5, 32), np.float32)
    lazy = {n: Lazy(a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}
    write_safetensors(path, lazy, {})
    with pytest.raises(ValueError, match=r"misshapen .*text_linear.*lora_A.weight is \[5, 32\]"):
        load_lora(path, random_model("stt_1b"))


def test_a_checkpoint_of_another_preset_is_told_in_every_form(tmp_path):
    for i, model in enumerate((adapted("stt_1b"), quantized("stt_1b"))):
        path = save_lm(model, tmp_path / str(i), layout=LAYOUTS[i])
        with pytest.raises(ValueError, match=r"preset stt_1b_tiny, so load it as that$"):
            load_lm(path, PRESETS["stt_2_6b_tiny"])
