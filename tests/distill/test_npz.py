"""npz files of anyone: each is read right or refused by name, in little memory."""

import io
import random
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from distill import npz
from moshijax.system.errors import UserError


CASES = 10_000
ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b/kernel": np.asfortranarray(np.arange(8, dtype=np.int8).reshape(2, 4)),
    "c": np.array("text"),
}


def packed(arrays, compression=zipfile.ZIP_STORED):
    """The bytes of an npz file of these arrays, or of members as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else member(array))
    return file.getvalue()


def member(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def declared(shape, dtype="<f4", size=8):
    """A member that declares more than it has."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + bytes(size)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npz"


def refused(path, content, match):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        for read in (npz.read_stored, lambda path: npz.read_arrays(path, npz.read_headers(path))):
            with pytest.raises(UserError, match=f"x.npz .*{match}"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_are_what_they_were(path, compression):
    path.write_bytes(packed(ARRAYS, compression))
    assert npz.read_headers(path)["a"] == ((2, 3), np.dtype(np.float32))
    for name, array in npz.read_arrays(path, ARRAYS).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (declared((1 << 40,)), "has 136 bytes"),
        (declared((1 << 40, 1 << 40)), "has 136 bytes"),
        (declared((-1,), size=0), "a is not|has 128 bytes|shape"),
        (member(np.array([{}], dtype=object)), "of type object"),
        (member(np.zeros(2, [("x", "f4")])), "of type"),
        (b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + b" " * 99, "2147483648 bytes"),
        (b"\x93NUMPY\x01\x00" + (60_000).to_bytes(2, "little") + b" " * 60_000, "60000 bytes"),
        (b"\x93NUMPY\x09\x00", "not a whole npz file"),
        (b"nothing", "is no array"),
        (b"", "is no array"),
    ],
    ids=["huge", "huger", "negative", "objects", "records", "v2", "v1", "v9", "text", "empty"],
)
def test_what_no_array_can_be_is_refused_before_it_is_unpacked(path, found, match):
    refused(path, packed({"a": found}), match)


def test_bombs_are_refused_by_their_declared_size(path):
    bomb = packed({"a": np.zeros(10_000_000, np.uint8)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 20_000
    path.write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacks to 10000000 bytes"):
        npz.read_stored(path)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.npz cannot be opened: No such file"):
        npz.read_headers(tmp_path / "none.npz")
    with pytest.raises(UserError, match="cannot be opened: Is a directory"):
        npz.read_headers(tmp_path)


def changed(draw, data):
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        data[draw.randrange(len(data))] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
    return bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)


def test_ten_thousand_damaged_files_are_read_right_or_refused(capfd, monkeypatch):
    draw, refusals = random.Random(0), 0
    whole = [packed(ARRAYS, kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    members = {name: member(array) for name, array in ARRAYS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(CASES):
            if number % 2:
                content = changed(draw, draw.choice(whole))
            else:  # a member that is damaged within a file that is not
                name = draw.choice(list(members))
                content = packed(members | {name: changed(draw, members[name])})
            # In memory: to open so many files on a disk would take most of the time.
            monkeypatch.setattr(npz, "open", lambda *_, x=content: io.BytesIO(x), raising=False)
            try:
                arrays = npz.read_arrays("x.npz", ["a", "c"])
            except UserError:
                refusals += 1
            else:
                assert sum(array.nbytes for array in arrays.values()) < len(content)
    assert CASES / 10 < refusals < CASES
    assert capfd.readouterr() == ("", "")
