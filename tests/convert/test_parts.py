import functools
import json

import numpy as np
import pytest

from moshijax.convert.parts import write_parts
from moshijax.convert.safetensors import Lazy, Safetensors
from moshijax.convert.weights import open_weights


ARRAYS = {name: np.arange(i, i + 10, dtype=np.float32) for i, name in enumerate("abcdefg")}
TENSORS = {n: Lazy(x.shape, x.dtype, functools.partial(np.asarray, x)) for n, x in ARRAYS.items()}


@pytest.mark.parametrize(
    ("part_bytes", "sizes"), [(80, [2, 2, 2, 1]), (100, [2, 2, 2, 1]), (1, [1] * 7)]
)
def test_parts_hold_what_fits_and_are_read_as_one(part_bytes, sizes, tmp_path):
    write_parts(tmp_path / "model.safetensors", TENSORS, {"format": "pt"}, float(part_bytes))
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert [len(Safetensors(part)) for part in parts] == sizes
    assert parts[0].name == f"model-00001-of-{len(sizes):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 280
    whole = open_weights(tmp_path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(whole[name], array)


def test_what_is_small_stays_one_file(tmp_path):
    write_parts(tmp_path / "model.safetensors", TENSORS, {}, 280.0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
