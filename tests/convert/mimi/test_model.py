import dataclasses
import functools
import mmap
import pathlib
import tracemalloc

import jax
import numpy as np
import pytest

from moshijax.codec.config import PRESETS
from moshijax.codec.mimi import for_inference
from moshijax.convert.mimi import abstract_mimi, load_mimi, save_mimi
from moshijax.convert.mimi.names import LAYOUTS
from moshijax.convert.random import random_mimi
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.nn.paths import named_leaves
from moshijax.nn.transformer import unstack
from moshijax.system.errors import UserError
from tests.convert.files import changed


TINY = PRESETS["tiny"]


@functools.cache
def mimi():
    return random_mimi(TINY, seed=2)


def assert_equal_models(a, b, **tolerance):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        np.testing.assert_allclose(b[name], leaf, err_msg=name, rtol=tolerance.get("rtol", 0))


def save(folder, layout="published", model=None):
    return save_mimi(model or mimi(), folder / layout, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_model_back(layout, tmp_path):
    assert_equal_models(load_mimi(save(tmp_path, layout), TINY), mimi())


def test_lists_of_layers_are_saved_like_stacks(tmp_path):
    stacked = save(tmp_path).read_bytes()
    assert save(tmp_path, model=unstack(mimi())).read_bytes() == stacked


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path):
    path = save(tmp_path)
    again = save_mimi(load_mimi(path, TINY), tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()


def test_loading_for_inference_is_loading_and_arranging(tmp_path):
    loaded = load_mimi(save(tmp_path), TINY, inference=True)
    assert_equal_models(for_inference(mimi()), loaded, rtol=1e-6)


@pytest.mark.parametrize("inference", [False, True])
def test_loading_takes_one_tensor_of_extra_memory(inference, tmp_path, monkeypatch):
    transformer = dataclasses.replace(PRESETS["small"].transformer, num_layers=1)
    config = dataclasses.replace(
        PRESETS["small"], num_filters=32, num_codebooks=2, transformer=transformer
    )
    shapes = abstract_mimi(config)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    path = save(tmp_path, model=ones)
    read, held, mapped = Safetensors.__getitem__, [], []

    def watched(file, name):
        held.append(live_bytes() - before)
        mapped.append(mapped_bytes(path) if len(held) % 10 == 0 else 0)
        return read(file, name)

    monkeypatch.setattr(Safetensors, "__getitem__", watched)
    before = live_bytes()
    tracemalloc.start()
    mimi = load_mimi(path, config, inference=inference)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(mimi)]
    assert sum(sizes) > 3 * max(sizes)
    # NumPy's share is the one tensor on its way, JAX's what is loaded and a codebook in the making.
    assert peak < 1.7 * max(sizes)  # the rest is Python's own objects
    assert max(held) <= sum(sizes) + 4 * config.codebook_size * config.codebook_dim
    assert max(mapped) < 1.7 * max(sizes)


def live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def mapped_bytes(path):
    """The part of a mapped file that is in this process's memory, as Linux tells it."""
    table, present, total = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/self/pagemap"), 0
    if not present.exists():
        return total
    # Not smaps, which goes through every page of a process that has thousands of mappings.
    with table.open() as lines, present.open("rb") as pages:
        for line in lines:
            if line.rstrip().endswith(str(path)):
                first, last = (
                    int(word, 16) // mmap.PAGESIZE for word in line.split()[0].split("-")
                )
                pages.seek(8 * first)
                found = np.frombuffer(pages.read(8 * (last - first)), np.uint64)
                total += mmap.PAGESIZE * int((found >> 63).sum())  # The bit of what is present.
    return total


def test_half_precision_is_widened(tmp_path):
    path = save(tmp_path)

    def narrow(arrays):
        arrays.update({name: array.astype(np.float16) for name, array in arrays.items()})

    loaded = named_leaves(load_mimi(changed(path, narrow), TINY))
    for name, leaf in named_leaves(mimi()).items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], np.asarray(leaf).astype(np.float16))


def test_fewer_codebooks_may_be_asked_for(tmp_path):
    loaded = load_mimi(save(tmp_path), dataclasses.replace(TINY, num_codebooks=2))
    assert loaded.quantizer.num_codebooks == 2
    with pytest.raises(ValueError, match=r"has 4 codebooks, but the configuration has 9"):
        load_mimi(save(tmp_path), dataclasses.replace(TINY, num_codebooks=9))


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path):
    def spoil(arrays):
        del arrays["encoder.model.0.conv.conv.bias"]
        arrays["extra.weight"] = np.zeros(3, np.float32)
        arrays["decoder.model.0.conv.conv.bias"] = np.zeros(5, np.float32)

    with pytest.raises(ValueError, match=r"does not fit this Mimi") as caught:
        load_mimi(changed(save(tmp_path), spoil), TINY)
    message = str(caught.value)
    assert "lacks encoder.model.0.conv.conv.bias;" in message
    assert "has besides extra.weight;" in message
    assert "has misshapen decoder.model.0.conv.conv.bias is [5], not [16]" in message
    assert "\n" not in message


def test_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has misshapen .* and [0-9]+ more"):
        load_mimi(save(tmp_path), dataclasses.replace(TINY, num_filters=8))


def test_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "lm.safetensors"
    arrays = {f"transformer.layers.{i}.gate": np.zeros(2, np.float32) for i in range(5)}
    lazy = {name: Lazy(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    write_safetensors(path, lazy, {})
    with pytest.raises(ValueError, match=r"file of another model.*transformer.layers.0.gate"):
        load_mimi(path, TINY)


def test_frozen_codebooks_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r"frozen codebooks, which cannot be saved"):
        save(tmp_path, model=for_inference(mimi()))


FIRST = "quantizer.rvq_first.vq.layers.0._codebook"
LAST = "quantizer.rvq_rest.vq.layers.2._codebook"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            f"{FIRST}.embedding_sum",
            np.nan,
            r"rvq_first.*embedding_sum' holds nan, which is no weig",
        ),
        ("decoder.model.0.conv.conv.bias", -np.inf, r"conv\.bias' holds -inf, which is no weight"),
        (f"{FIRST}.cluster_usage", 0, r"cluster_usage' says that entry 1 was used 0.0 times"),
        (f"{LAST}.cluster_usage", -1.5, r"cluster_usage' says that entry 1 was used -1.5 times"),
    ],
)
def test_weights_that_cannot_be_are_refused(name, value, message, tmp_path):
    def spoil(arrays):
        arrays[name].reshape(-1)[1] = value

    path = changed(save(tmp_path), spoil)
    for inference in (False, True):
        with pytest.raises(UserError, match=message) as caught:
            load_mimi(path, TINY, inference=inference)
        assert str(caught.value).startswith(f"{path}, tensor '{name}'")


def test_a_codebook_of_zeros_is_refused_unless_it_is_left_out(tmp_path):
    path = changed(save(tmp_path), lambda arrays: arrays[f"{LAST}.embedding_sum"].fill(0))
    with pytest.raises(UserError, match=r"embedding_sum' is 0 throughout: this codebook was never"):
        load_mimi(path, TINY)
    load_mimi(path, dataclasses.replace(TINY, num_codebooks=3))


def test_random_codes_vary():
    a, b = random_mimi(TINY, seed=0), random_mimi(TINY, seed=1)
    assert np.abs(a.decoder.seanet.first.kernel[...] - b.decoder.seanet.first.kernel[...]).max() > 0
