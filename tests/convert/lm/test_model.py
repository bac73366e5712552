import dataclasses
import functools
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest

from moshijax import shard
from moshijax.convert.lm import abstract_lm, load_lm, save_lm
from moshijax.convert.lm import model as lm
from moshijax.convert.lm.names import layouts
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.convert.tables import Piece, read
from moshijax.convert.transforms import LINEAR, Entry
from moshijax.convert.weights import open_weights
from moshijax.lm.presets import PRESETS
from moshijax.lm.rules import RULES
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.nn.transformer import unstack
from moshijax.system.errors import UserError
from tests.convert.files import changed
from tests.lm_models import NAMES, random_model


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def narrow(model, dtype):
    """The model in another type; conditioners stay."""
    leaves = named_leaves(model).items()
    return with_leaves(
        model, {n: x if n.startswith("conditioners") else x.astype(dtype) for n, x in leaves}
    )


def assert_equal_models(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        assert b[name].dtype == leaf.dtype, name
        np.testing.assert_array_equal(b[name], leaf, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_gives_the_model_and_the_bytes_back(name, dtype, tmp_path):
    model = narrow(random_model(name), dtype)
    for layout in layouts(model.config)[:2]:
        path = save_lm(model, tmp_path / layout, layout=layout)
        loaded = load_lm(path, model.config)
        assert_equal_models(model, loaded)
        again = save_lm(loaded, tmp_path / "again", layout=layout)
        assert again.read_bytes() == path.read_bytes()
        kept = {n for n, e in Safetensors(path).entries.items() if e.dtype != dtype}
        assert all(n.startswith("condition_provider") for n in kept)


def test_layouts_differ_in_the_names_of_projections(tmp_path):
    model = random_model("hibiki_2b")
    published = Safetensors(save_lm(model, tmp_path / "a"))
    torch = Safetensors(save_lm(model, tmp_path / "b", layout="torch"))
    stacked = published["depformer.layers.1.self_attn.in_proj_weight"]
    name = "depformer.layers.1.self_attn.in_projs.{}.weight"
    assert set(torch) - set(published) >= {name.format(i) for i in range(9)}
    parts = np.split(stacked, 9)
    for i in range(9):
        np.testing.assert_array_equal(torch[name.format(i)], parts[i])


def test_tensors_go_where_their_names_say(tmp_path):
    model = random_model("tts_1_6b")
    file = Safetensors(save_lm(model, tmp_path / "x"))
    dim, depth = 32, 24
    attention = model.temporal.transformer.layers.cross
    stacked = file["transformer.layers.1.cross_attention.in_proj_weight"]
    np.testing.assert_array_equal(stacked[dim : 2 * dim].T, attention.k.kernel[1])
    layers = model.depth.layers
    # The rows of a set lie together, in the order q, k, v.
    rows = file["depformer.layers.1.self_attn.in_proj_weight"].reshape(11, 3, depth, depth)
    np.testing.assert_array_equal(rows[7, 2].T, layers.v.kernel[1, 7])
    gate, up = np.split(file["depformer.layers.0.gating.9.linear_in.weight"], 2)
    np.testing.assert_array_equal(gate.T, layers.gate.kernel[0, 9])
    np.testing.assert_array_equal(up.T, layers.up.kernel[0, 9])
    scale = file["transformer.layers.1.norm2.alpha"]
    np.testing.assert_array_equal(scale[0, 0], model.temporal.transformer.layers.mlp_norm.scale[1])


def test_lists_are_loaded_and_saved_like_stacks(tmp_path):
    for name in ("tts_1_6b", "stt_1b"):
        model = random_model(name)
        path = save_lm(model, tmp_path / "stacked")
        loaded = load_lm(path, model.config, inference=True)
        assert_equal_models(unstack(model), loaded)
        assert save_lm(loaded, tmp_path / "again").read_bytes() == path.read_bytes()


def test_types_are_the_files_or_as_asked_but_conditioners_stay_float32(tmp_path):
    model = random_model("hibiki_1b")
    path = save_lm(model, tmp_path / "x", dtype=BFLOAT16)
    assert_equal_models(narrow(model, BFLOAT16), load_lm(path, model.config))
    wide = load_lm(path, model.config, dtype=np.float32)
    assert_equal_models(narrow(narrow(model, BFLOAT16), np.float32), wide)
    wide = save_lm(model, tmp_path / "y")
    loaded = load_lm(wide, model.config, dtype=BFLOAT16)
    assert_equal_models(narrow(model, BFLOAT16), loaded)


def test_a_mesh_gets_the_same_model_in_slices(tmp_path):
    model = random_model("tts_1_6b")
    path = save_lm(model, tmp_path / "x", dtype=BFLOAT16)
    mesh = shard.make_mesh(dict(fsdp=4, tensor=2))
    placed = load_lm(path, model.config, mesh=mesh, dtype=np.float32)
    assert_equal_models(load_lm(path, model.config, dtype=np.float32), placed)
    want = named_leaves(shard.shard_like(model, mesh, RULES))
    assert all(x.sharding == want[name] for name, x in named_leaves(placed).items())


@pytest.mark.parametrize("inference", [False, True])
def test_loading_takes_little_more_memory_than_the_model(inference, tmp_path):
    path, config = hollow_model(tmp_path)
    load_lm(path, config, inference=inference)
    tracemalloc.start()
    model = load_lm(path, config, inference=inference)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(model)]
    assert sum(sizes) > 4 * max(sizes)
    # The tensor on its way, and the one before until JAX lets it go; the rest is Python's own.
    assert peak < 2.1 * max(sizes) + 2e6


def test_matrices_larger_than_a_tile_are_copied_whole(tmp_path):
    rng = np.random.default_rng(0)
    for dtype in (np.float32, BFLOAT16):
        array = rng.standard_normal((300, 700)).astype(dtype)
        make = functools.partial(np.asarray, array)
        write_safetensors(tmp_path / "x", {"x": Lazy(array.shape, array.dtype, make)}, {})
        file, piece = open_weights(tmp_path / "x"), Piece(Entry("x", ("w",), LINEAR), 0)
        for wanted in (np.float32, BFLOAT16):
            got = read(file, {(): piece}, (700, 300), wanted)
            np.testing.assert_array_equal(got, array.T.astype(wanted))
        cut = (slice(10, 650), slice(20, 290))
        got = read(file, {(): piece}, (700, 300), dtype, cut)
        np.testing.assert_array_equal(got, array.T[cut])


def test_a_mesh_takes_slices_of_tensors_only(tmp_path, monkeypatch):
    path, config = hollow_model(tmp_path)
    seen = []

    def watched(*args):
        seen.append(read(*args))
        return seen[-1]

    monkeypatch.setattr(lm, "read", watched)
    model = load_lm(path, config, mesh=shard.make_mesh(dict(fsdp=8)))
    assert max(array.nbytes for array in seen) == max(
        leaf.nbytes // 8 for leaf in jax.tree.leaves(model)
    )


def hollow_model(folder):
    """A file of zeros, mostly of four layers."""
    config = dataclasses.replace(
        PRESETS["helium_2b_tiny"], dim=512, num_heads=8, num_layers=6, mlp_dim=1024
    )
    model = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_lm(config))
    return save_lm(model, folder / "x"), config


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path):
    model = random_model("moshi_7b")

    def spoil(arrays):
        del arrays["depformer.layers.1.norm2.alpha"]
        arrays["extra.weight"] = np.zeros(3, np.float32)
        arrays["emb.3.weight"] = np.zeros((5, 32), np.float32)
        arrays["out_norm.alpha"] = np.zeros(32, np.float32)
        arrays["linears.2.weight"] = np.zeros((40, 24), np.int8)

    with pytest.raises(ValueError, match=r"does not fit this language model") as caught:
        load_lm(changed(save_lm(model, tmp_path / "bad.safetensors"), spoil), model.config)
    message = str(caught.value)
    assert "bad.safetensors" in message
    assert "lacks depformer.layers.1.norm2.alpha;" in message
    assert "has besides extra.weight;" in message
    assert "misshapen emb.3.weight is [5, 32], not [41, 32]" in message
    assert "out_norm.alpha is [32], not [1, 1, 32]" in message
    assert "linears.2.weight is int8" in message
    assert "\n" not in message


@pytest.mark.parametrize("layout", ["published", "torch"])
def test_a_checkpoint_of_another_preset_is_told(layout, tmp_path):
    path = save_lm(random_model("stt_1b"), tmp_path / "stt.safetensors", layout=layout)
    for name in ("moshi_7b", "stt_1b", "helium_2b", "tts_1_6b_tiny"):
        with pytest.raises(ValueError, match=r"preset stt_1b_tiny, so load it as that$") as caught:
            load_lm(path, PRESETS[name])
        assert "stt.safetensors" in str(caught.value)


def test_what_is_no_language_model_is_refused(tmp_path):
    arrays = {f"encoder.{i}.weight": np.zeros(2, np.float32) for i in range(5)}
    lazy = {name: Lazy(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    write_safetensors(tmp_path / "x", lazy, {})
    with pytest.raises(ValueError, match=r"its own are encoder\.0\.weight.*choose the config"):
        load_lm(tmp_path / "x", PRESETS["moshi_7b_tiny"])


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=["float32", "bfloat16"])
def test_numbers_that_no_weight_is_are_refused(dtype, tmp_path):
    model = random_model("stt_1b")
    path = save_lm(model, tmp_path / "x.safetensors")
    name = "transformer.layers.1.gating.linear_in.weight"

    def spoil(arrays):
        arrays[name][3, 2] = np.nan

    with pytest.raises(UserError, match=rf"^{path}, tensor '{name}' holds nan"):
        load_lm(changed(path, spoil), model.config, dtype=dtype)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    model = random_model("stt_1b")
    path = save_lm(model, tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"x\.safetensors is cut short: tensor"):
        load_lm(path, model.config)


def test_layouts_of_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'transformers' is none of this model's; there are publ"):
        save_lm(random_model("moshi_7b"), tmp_path / "x", layout="transformers")


def test_text_alone_goes_to_transformers_and_back_but_for_its_start(tmp_path):
    model = random_model("helium_7b")
    path = save_lm(model, tmp_path / "x", layout="transformers", dtype=BFLOAT16)
    assert path.name == "model.safetensors"
    leaves = named_leaves(narrow(model, BFLOAT16))
    name = "temporal/text_embedding/table"
    leaves[name] = leaves[name].at[-1].set(leaves[name][1])
    loaded = load_lm(path, model.config)
    assert_equal_models(with_leaves(model, leaves), loaded)
    again = save_lm(loaded, tmp_path / "y", layout="transformers")
    assert again.read_bytes() == path.read_bytes()
