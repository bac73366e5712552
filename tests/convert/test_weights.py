import dataclasses
import json
import os

import numpy as np
import pytest

from moshijax.codec.config import PRESETS as MIMI
from moshijax.convert.lm import load_lm, save_lm
from moshijax.convert.lm.lora import load_lora, save_lora
from moshijax.convert.mimi import load_mimi, save_mimi
from moshijax.convert.random import random_mimi
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.convert.weights import ADAPTERS, CODEC, find_beside, open_weights
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError
from tests.lm_models import random_model


INDEX = "model.safetensors.index.json"
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
ARRAYS = {name: np.full(3, i, np.float32) for i, name in enumerate("abcd")}


def write(path, arrays):
    lazy = {name: Lazy(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    write_safetensors(path, lazy, {})
    return path


def cut(folder, arrays=ARRAYS, stem="model"):
    """Two parts with an index, as transformers cuts large files."""
    folder.mkdir(exist_ok=True)
    names, where = sorted(arrays), {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"{stem}-{i:05d}-of-00002.safetensors"
        write(folder / file, {n: arrays[n] for n in part})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 48}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return folder


def cut_file(path, folder):
    return cut(folder, {name: np.array(array) for name, array in Safetensors(path).items()})


def change_map(folder, change):
    table = json.loads((folder / INDEX).read_text())
    change(table["weight_map"])
    (folder / INDEX).write_text(json.dumps(table))


def assert_equal_models(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        np.testing.assert_array_equal(b[name], leaf, err_msg=name)


@pytest.mark.parametrize("name", ["", INDEX, *PARTS])
def test_parts_are_read_as_one_by_the_name_of_any_file_or_of_their_folder(name, tmp_path):
    file = open_weights(cut(tmp_path / "x [1]") / name)
    assert file.path.name == INDEX
    assert file.keys() == ARRAYS.keys() == file.entries.keys()
    for tensor, array in ARRAYS.items():
        np.testing.assert_array_equal(file[tensor], array)
    assert [file.home(n).path.name for n in ("a", "d")] == list(PARTS)
    file.release()
    np.testing.assert_array_equal(file["c"], ARRAYS["c"])
    with pytest.raises(KeyError, match="holds no tensor e"):
        file["e"]


def test_a_language_model_in_parts_is_the_model(tmp_path):
    model = random_model("helium_2b")
    path = save_lm(model, tmp_path / "whole", layout="transformers")
    whole = load_lm(path, model.config)
    for source in (tmp_path / "whole", cut_file(path, tmp_path / "cut"), tmp_path / "cut" / INDEX):
        assert_equal_models(load_lm(source, model.config), whole)


def test_a_mimi_in_parts_is_the_model(tmp_path):
    mimi = random_mimi(MIMI["tiny"])
    path = save_mimi(mimi, tmp_path / "whole", layout="transformers")
    assert_equal_models(load_mimi(tmp_path / "whole", MIMI["tiny"]), mimi)
    assert_equal_models(load_mimi(cut_file(path, tmp_path / "cut"), MIMI["tiny"]), mimi)


def test_the_usual_file_of_a_folder_is_found(tmp_path):
    codec = "tokenizer-e351c8d8-checkpoint125.safetensors"
    for name in ("model.safetensors", codec, "lora.safetensors"):
        write(tmp_path / name, ARRAYS)
    assert open_weights(tmp_path).path.name == "model.safetensors"
    assert open_weights(tmp_path, CODEC).path.name == codec
    assert open_weights(tmp_path, ADAPTERS).path.name == "lora.safetensors"
    (tmp_path / codec).unlink()
    assert open_weights(tmp_path, CODEC).path.name == "model.safetensors"
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"has no tokenizer-.*name the file itself"):
        open_weights(tmp_path, CODEC)
    (tmp_path / "lora.safetensors").unlink()
    assert open_weights(tmp_path, CODEC).path.name == "other.safetensors"


def test_the_config_beside_names_the_file(tmp_path):
    write(tmp_path / "mimi-pytorch-e351c8d8@125.safetensors", ARRAYS)
    write(tmp_path / "model.safetensors", ARRAYS)
    fields = {"mimi_name": "mimi-pytorch-e351c8d8@125.safetensors", "moshi_name": "../x"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert open_weights(tmp_path, CODEC).path.name == fields["mimi_name"]
    with pytest.raises(UserError, match=r"config.json has the moshi_name '../x', which is no name"):
        open_weights(tmp_path)
    assert open_weights(tmp_path / "model.safetensors").path.name == "model.safetensors"
    assert find_beside(tmp_path / "model.safetensors", "config.json") == tmp_path / "config.json"
    assert find_beside(tmp_path, "config.json") == tmp_path / "config.json"
    assert find_beside(tmp_path, "none.json") is None


def test_a_folder_of_symlinks_as_the_hub_keeps_it(tmp_path):
    cut(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        os.symlink(os.path.join("..", "blobs", file.name), tmp_path / "snapshot" / file.name)
    assert open_weights(tmp_path / "snapshot").keys() == ARRAYS.keys()


def test_a_single_part_needs_no_index(tmp_path):
    path = write(tmp_path / "model-00001-of-00001.safetensors", ARRAYS)
    assert open_weights(path).keys() == ARRAYS.keys()


def test_missing_parts_and_indexes_are_named(tmp_path):
    (cut(tmp_path) / PARTS[1]).unlink()
    for name in ("", INDEX, PARTS[0]):
        with pytest.raises(UserError, match=rf"names the part '{PARTS[1]}', which is not beside"):
            open_weights(tmp_path / name)
    (tmp_path / INDEX).unlink()
    with pytest.raises(UserError, match=rf"is one of 00002 parts, and {INDEX} beside it.*missing"):
        open_weights(tmp_path / PARTS[0])
    with pytest.raises(UserError, match=r"has no model\.safetensors, whole or in parts"):
        open_weights(tmp_path)


def test_an_index_that_differs_from_its_parts_is_refused(tmp_path):
    change_map(cut(tmp_path), lambda table: table.update(e=PARTS[0]))
    with pytest.raises(
        UserError, match=rf"{PARTS[0]} lacks the tensor 'e', 1 in all, by what .*inde"
    ):
        open_weights(tmp_path)
    change_map(cut(tmp_path), lambda table: table.pop("c"))
    with pytest.raises(UserError, match=rf"{PARTS[1]} has besides the tensor 'c'"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/etc/passwd", "a/b", "..", "", "C:\\x", "a\\..\\b", "a\0", 5, None],
)
def test_an_index_that_leads_out_of_its_folder_is_refused(file, tmp_path):
    write(tmp_path / "x.safetensors", {"a": ARRAYS["a"]})
    change_map(cut(tmp_path / "cut"), lambda table: table.update(a=file))
    with pytest.raises(UserError, match=r"tensor 'a' is in .*, which is no file beside it"):
        open_weights(tmp_path / "cut")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": ["a"]}', "has no weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', '"a" is there twice'),
    ],
)
def test_a_damaged_index_is_refused_in_one_sentence(text, message, tmp_path):
    (cut(tmp_path) / INDEX).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        open_weights(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / INDEX))
    assert "\n" not in str(caught.value)


def test_home_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.safetensors", ARRAYS)
    assert open_weights("~/x.safetensors").path == tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="there is no such file"):
        open_weights("~nobody-of-this-name/x.safetensors")


def test_adapters_are_found_in_their_folder(tmp_path):
    from tests.convert.lm.test_forms import adapted

    model = adapted("stt_1b")
    save_lora(model, tmp_path / "lora.safetensors")
    loaded = load_lora(tmp_path, random_model("stt_1b"))
    assert named_leaves(loaded).keys() == named_leaves(model).keys()


def test_a_mimi_without_flags_of_its_start_is_read_as_started(tmp_path):
    mimi = random_mimi(MIMI["tiny"])
    path = save_mimi(mimi, tmp_path / "x")
    arrays = {n: np.array(a) for n, a in Safetensors(path).items() if "_initialized" not in n}
    loaded = load_mimi(write(path, arrays), MIMI["tiny"])
    assert_equal_models(mimi, loaded)
    fewer = dataclasses.replace(MIMI["tiny"], num_codebooks=2)
    assert load_mimi(path, fewer, inference=True).quantizer.num_codebooks == 2
