"""Damaged safetensors files: each is read right or refused by name, in little memory."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moshijax.convert.safetensors import DTYPES, Lazy, Safetensors, write_safetensors


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.kernel": np.arange(4, dtype=np.int8),
    "c": np.array(2.5, np.float64),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "x.safetensors"


@pytest.fixture(scope="module")
def whole(path):
    lazy = {name: Lazy(a.shape, a.dtype, lambda a=a: a) for name, a in ARRAYS.items()}
    write_safetensors(path, lazy, {"format": "pt"})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def read_or_refuse(path, content):
    """Reads every tensor; whatever is in the file, only ValueError may come of it."""
    path.write_bytes(content)
    arrays, message = None, ""
    tracemalloc.start()
    try:
        file = Safetensors(path)
        arrays = {name: file[name] for name in file}
    except ValueError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 5e6
    if arrays is None:
        assert message.startswith(str(path)), message
        assert "anew" in message or "convert it" in message, message
        assert "\n" not in message
        assert len(message) < 500 + len(str(path))
        return None
    # The tensors of a file that was taken cover its data exactly.
    header = int.from_bytes(content[:8], "little")
    assert sum(array.nbytes for array in arrays.values()) == len(content) - 8 - header
    return arrays


def test_undamaged_file_is_read(path, whole):
    header, data = whole
    arrays = read_or_refuse(path, len(header).to_bytes(8, "little") + header + data)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=6),
    length=st.none() | st.integers(0, 1000),
)
def test_changed_bytes_and_lengths(path, whole, changes, length):
    header, data = whole
    content = bytearray(len(header).to_bytes(8, "little") + header + data)
    for position, value in changes:
        content[position % len(content)] = value
    read_or_refuse(path, bytes(content[:length]))


@settings(max_examples=100)
@given(
    length=st.integers(0, 2**64 - 1) | st.integers(0, 400),
    shift=st.integers(-16, 16),
)
@example(length=2**64 - 1, shift=0)
@example(length=0, shift=0)
def test_any_length_of_the_header(path, whole, length, shift):
    header, data = whole
    read_or_refuse(path, length.to_bytes(8, "little") + header + data)
    text = max(0, len(header) + shift).to_bytes(8, "little")
    read_or_refuse(path, text + header + data)


numbers = (
    st.integers(-1, 12)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 1e308, 0.5, True, None, "8"])
)
fields = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "", "f32"]) | numbers,
        "shape": st.lists(numbers, max_size=4) | numbers,
        "data_offsets": st.lists(numbers, max_size=3) | numbers,
    }
)
names = st.sampled_from(["a", "b.kernel", "", "__metadata__", "\x00", "\ud800", "d"])
anything = st.recursive(
    numbers | st.text(max_size=3), lambda x: st.lists(x) | st.dictionaries(names, x), max_leaves=5
)


@settings(max_examples=200)
@given(header=st.dictionaries(names, fields | anything, max_size=4) | anything)
@example(header={"a": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}})
@example(header={"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}})
def test_any_header(path, whole, header):
    _, data = whole
    text = json.dumps(header).encode()
    read_or_refuse(path, len(text).to_bytes(8, "little") + text + data)
    read_or_refuse(path, len(text).to_bytes(8, "little") + text)


@settings(max_examples=100)
@given(
    name=st.sampled_from(sorted(ARRAYS)),
    key=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=st.lists(numbers, max_size=3) | st.sampled_from(sorted(DTYPES)) | numbers,
)
def test_one_field_replaced(path, whole, name, key, value):
    header, data = whole
    table = json.loads(header)
    table[name][key] = value
    text = json.dumps(table).encode()
    arrays = read_or_refuse(path, len(text).to_bytes(8, "little") + text + data)
    if arrays:
        for other in ARRAYS.keys() - {name}:
            np.testing.assert_array_equal(arrays[other], ARRAYS[other])


LONG_NAME = b'{"%s":{}}' % (b"n" * 100_000)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff" * 8, LONG_NAME]
)
def test_deep_and_long_headers(path, text):
    assert read_or_refuse(path, len(text).to_bytes(8, "little") + text) is None
