import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from moshijax.convert.safetensors import DTYPES, Lazy, Safetensors, write_safetensors


def write(path, arrays, metadata=None):
    lazy = {name: Lazy(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}
    write_safetensors(path, lazy, metadata or {})
    return path


def raw(path, header, data=b""):
    """A file of any header, given as JSON or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def field(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"a.{code}": rng.integers(0, 2, (3, 2, 4)).astype(dtype) for code, dtype in DTYPES.items()
    }
    arrays |= {"scalar": np.array(3.5, np.float32), "empty": np.zeros((0, 5), np.float32)}
    file = Safetensors(write(tmp_path / "x.safetensors", arrays, {"format": "pt"}))
    assert file.keys() == arrays.keys()
    assert len(file) == len(arrays)
    assert file.metadata == {"format": "pt"}
    for name, array in arrays.items():
        assert file[name].dtype == array.dtype
        np.testing.assert_array_equal(file[name], array)


def test_columns_are_written_in_row_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    file = Safetensors(write(tmp_path / "x.safetensors", {"a": array}))
    np.testing.assert_array_equal(file["a"], array)


def test_tensors_are_views_of_the_file_and_cannot_be_written(tmp_path):
    file = Safetensors(write(tmp_path / "x.safetensors", {"a": np.ones(3, np.float32)}))
    assert not file["a"].flags.owndata
    assert not file["a"].flags.writeable


def test_data_begins_at_a_multiple_of_eight_bytes(tmp_path):
    for length in range(1, 9):
        path = write(tmp_path / "x.safetensors", {"n" * length: np.ones(1, np.float32)})
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_tensors_are_made_one_at_a_time(tmp_path):
    alive = []

    def make(i):
        array = np.full(4, i, np.float32)
        alive.append(i)
        return array

    lazy = {str(i): Lazy((4,), np.dtype(np.float32), lambda i=i: make(i)) for i in range(3)}
    write_safetensors(tmp_path / "x.safetensors", lazy, {})
    assert alive == [0, 1, 2]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": np.ones(3, np.float32)})
    before = path.read_bytes()
    wrong = {"a": Lazy((4,), np.dtype(np.float32), lambda: np.ones(3, np.float32))}
    with pytest.raises(ValueError, match=r"tensor a was announced as \(4,\) and is \(3,\)"):
        write_safetensors(path, wrong, {})
    assert path.read_bytes() == before


def test_bfloat16_is_read_as_such(tmp_path):
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    file = Safetensors(raw(tmp_path / "x", {"a": field("BF16", (2,), (0, 4))}, array.tobytes()))
    np.testing.assert_array_equal(file["a"], array)


BAD = {
    "is no two numbers|are no two numbers": {"a": field(offsets=(0,))},
    "which is no list of sizes": {"a": field(shape=(-2,))},
    "has the dtype 'F31'": {"a": field(dtype="F31")},
    r"is F32 \[3\], so 12 bytes, but spans 8": {"a": field(shape=(3,))},
    "must have the fields dtype, shape and data_offsets": {"a": {"dtype": "F32"}},
    "begins at byte": {"a": field(), "b": field()},
    "is cut short: tensor 'a' ends at byte": {"a": field(shape=(4,), offsets=(0, 16))},
    "bytes after its last tensor": {"a": field(shape=(1,), offsets=(0, 4))},
    "no JSON object": [1, 2],
    "__metadata__ that is no table of texts": {"__metadata__": {"a": 1}, "a": field()},
    "header that is no JSON": b'{"a": ',
    "a name occurs twice": b'{"a": 1, "a": 1}',
}


@pytest.mark.parametrize("message", BAD)
def test_damaged_header_is_refused_in_one_sentence(message, tmp_path):
    path = raw(tmp_path / "bad.safetensors", BAD[message], bytes(8))
    with pytest.raises(ValueError, match=message) as caught:
        Safetensors(path)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shape", [[2**40, 2**40], [True], ["2"], [2.0], [1] * 40, {"a": 1}, None, [2**70]]
)
def test_impossible_shapes_are_refused(shape, tmp_path):
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}
    with pytest.raises(ValueError, match=r"shape|spans"):
        Safetensors(raw(tmp_path / "bad", header, bytes(8)))


def test_truncated_files_are_refused(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": np.ones(100, np.float32)})
    whole = path.read_bytes()
    for length in (0, 7, 8, 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut short|no safetensors file|no JSON"):
            Safetensors(path)


def test_header_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"its header has 9223372036854775808 bytes, but the file"):
        Safetensors(path)


def test_missing_files_and_tensors_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.safetensors: there is no such file"):
        Safetensors(tmp_path / "nothing.safetensors")
    file = Safetensors(write(tmp_path / "x.safetensors", {"a": np.ones(1, np.float32)}))
    with pytest.raises(KeyError, match=r"x\.safetensors holds no tensor b"):
        file["b"]


def test_a_file_that_nobody_reads_any_more_is_not_mapped(tmp_path):
    def mapped():
        return str(path) in pathlib.Path("/proc/self/maps").read_text()

    path = tmp_path / "gone.safetensors"
    write(path, {"x": np.ones(3, np.float32)})
    file = Safetensors(path)
    array = file["x"]
    del file
    assert mapped()  # An array that is read later holds its file.
    np.testing.assert_array_equal(array, np.ones(3))
    del array
    assert not mapped()
