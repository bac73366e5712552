import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from moshijax.convert.tables import Piece, few, read
from moshijax.convert.transforms import LINEAR, Entry
from moshijax.convert.values import CHUNK, not_finite
from moshijax.convert.weights import open_weights
from moshijax.system.errors import UserError
from tests.convert.test_weights import write


FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_finite_number_passes(dtype):
    most = ml_dtypes.finfo(dtype).max
    extremes = np.array([0.0, -0.0, 1, -1, most, -most], dtype)
    small = np.array([ml_dtypes.finfo(dtype).smallest_subnormal], dtype)
    rng = np.random.default_rng(0)
    array = np.concatenate([extremes, small, -small, rng.standard_normal(CHUNK).astype(dtype)])
    assert not_finite(array) is None
    assert not_finite(array[:0]) is None


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, CHUNK - 1, CHUNK, CHUNK + 6])
def test_each_other_number_is_found(dtype, value, at):
    array = np.full(CHUNK + 7, -1.5, dtype)
    array[at] = value
    assert np.array_equal(not_finite(array), float(value), equal_nan=True)
    assert not_finite(array[: CHUNK + 6].reshape(2, -1).T) is not None or at == CHUNK + 6


def test_bit_patterns_are_judged_as_numpy_judges_them():
    edges = [0x7C00, 0x7F80, 0x8000, 0xFC00, 0xFF80, 0x10000]
    near = [range(edge - 16, min(edge + 16, 2**16)) for edge in edges]
    patterns = np.array(sorted({*range(0, 2**16, 37), *itertools.chain(*near)}), np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for pattern in patterns[:, None]:
            number = pattern.view(dtype)
            assert (not_finite(number) is None) == math.isfinite(number[0])


def read_one(path, array, dtype, index=None):
    file = open_weights(write(path, {"x": array}))
    return read(file, {(): Piece(Entry("x", ("w",), LINEAR), 0)}, array.T.shape, dtype, index)


def test_only_what_is_read_is_checked(tmp_path):
    array = np.ones((6, 4), np.float32)
    array[5, 3] = np.nan
    read_one(tmp_path / "x", array, np.float32, (slice(0, 3), slice(None)))
    with pytest.raises(UserError, match=r"x, tensor 'x' holds nan, which is no weight"):
        read_one(tmp_path / "x", array, np.float32, (slice(3, 4), slice(None)))


def test_a_number_beyond_the_wanted_type_is_told(tmp_path):
    with pytest.raises(UserError, match=r"tensor 'x' holds inf as float32"):
        read_one(tmp_path / "x", np.full((2, 3), 1e300), np.float32)


def test_integers_are_read_as_they_are(tmp_path):
    array = np.full((2, 3), -1, np.int8)
    np.testing.assert_array_equal(read_one(tmp_path / "x", array, np.int8), array.T)


def test_names_in_sentences_can_be_shown():
    assert few(["a b", "a\nb\x1b[2J", "\ud800", "n" * 1000, "e"]) == (
        "a b, 'a\\nb\\x1b[2J', '\\ud800', '" + "n" * 76 + "... and 1 more"
    )
