"""The published files at full size: every name and shape, in files without their numbers.

`layouts.json` lists what the files hold; braces stand for all the numbers inside them.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import re

import pytest

from moshijax.codec.config import PRESETS as MIMI
from moshijax.convert.lm.model import fit
from moshijax.convert.mimi import abstract_mimi, names
from moshijax.convert.tables import announce, faults, pieces, read
from moshijax.convert.weights import open_weights
from moshijax.lm.presets import PRESETS
from moshijax.nn.paths import named_leaves


TEXT = json.loads((pathlib.Path(__file__).parent / "layouts.json").read_text())
CONFIGS = {name: PRESETS[name] for name in TEXT if name in PRESETS}
CONFIGS["stt_1b_plain"] = dataclasses.replace(PRESETS["stt_1b"], num_pause_heads=0)


def numbers(text):
    """The numbers of `3,5-7`."""
    bounds = (part.partition("-") for part in text.split(","))
    return [str(i) for a, _, b in bounds for i in range(int(a), int(b or a) + 1)]


def spread(pattern):
    parts = re.split(r"\{(.*?)\}", pattern)
    choices = [numbers(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@functools.cache
def layout(name):
    return {n: tuple(shape) for pattern, shape in TEXT[name].items() for n in spread(pattern)}


def dtype_of(name):
    return "F32" if name.startswith("condition_provider") else "BF16"


def hollow_file(path, shapes, dtype_of=dtype_of):
    """A file of the right size that takes no room."""
    header, start = {}, 0
    for name, shape in shapes.items():
        size = 4 if dtype_of(name) == "F32" else 2
        for axis in shape:
            size *= axis
        header[name] = dict(dtype=dtype_of(name), shape=shape, data_offsets=[start, start + size])
        start += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)
    return path


def test_all_published_layouts_are_listed():
    counts = {name: len(layout(name)) for name in TEXT}
    assert counts == {
        "moshi_7b": 355,
        "hibiki_1b": 262,
        "hibiki_2b": 327,
        "stt_1b": 135,
        "stt_1b_plain": 131,
        "stt_2_6b": 323,
        "tts_1_6b": 418,
        "mimi": 318,
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_file_is_read_whole_and_written_in_its_shapes(name, tmp_path):
    file = open_weights(hollow_file(tmp_path / "x.safetensors", layout(name)))
    model, table = fit(file, CONFIGS[name])
    leaves = named_leaves(model)
    assert {e.name: announce(e, leaves).shape for e in table} == layout(name)
    assert_complete(file, table, leaves)


def test_mimis_file_is_read_whole_and_written_in_its_shapes(tmp_path):
    shapes = layout("mimi")
    file = open_weights(hollow_file(tmp_path / "x.safetensors", shapes, lambda name: "F32"))
    leaves = named_leaves(abstract_mimi(MIMI["mimi"]))
    table = names.entries(MIMI["mimi"], "published")
    assert not faults(file, table, leaves)
    assert {e.name: announce(e, leaves).shape for e in table} == shapes
    assert_complete(file, table, leaves)


def assert_complete(file, table, leaves):
    """Every part of every array comes from one tensor, in the shape of the array."""
    found = pieces(table, leaves)
    assert found.keys() == leaves.keys()
    assert sum(len(parts) for parts in found.values()) == sum(len(e.paths) for e in table)
    for name, leaf in leaves.items():
        (stacked,) = {len(index) for index in found[name]}
        sizes = leaf.shape[:stacked]
        assert found[name].keys() == set(itertools.product(*map(range, sizes)))
        for entry, part in found[name].values():
            assert entry.transform.split(file[entry.name])[part].shape == leaf.shape[stacked:]
        last = tuple(slice(size - 1, size) for size in leaf.shape)
        assert read(file, found[name], leaf.shape, "float32", last).shape == (1,) * leaf.ndim


def test_a_file_of_another_preset_is_told_from_its_shapes(tmp_path):
    path = hollow_file(tmp_path / "x.safetensors", layout("hibiki_1b"))
    with pytest.raises(ValueError, match=r"it is of the preset hibiki_1b, so load it as that"):
        fit(open_weights(path), PRESETS["hibiki_2b"])
