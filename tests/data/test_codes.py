import io
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moshijax.data.codes import MOST_BYTES, read_codes, write_codes
from moshijax.system.errors import UserError


CODES = np.arange(24, dtype=np.int32).reshape(3, 8)
SIZES = {"sample_rate": 24000, "num_codebooks": 4, "codebook_size": 32}


def test_what_is_written_is_read(tmp_path):
    write_codes(tmp_path / "x.npz", CODES, 24000)
    got = read_codes(tmp_path / "x.npz", **SIZES)
    np.testing.assert_array_equal(got, CODES)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    with np.load(tmp_path / "x.npz") as file:
        assert set(file) == {"codes", "sample_rate"}
        assert file["sample_rate"] == 24000


def test_any_integers_compressed_or_not_are_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", codes=CODES.astype(np.uint8), sample_rate=24000)
    got = read_codes(tmp_path / "x.npz", **SIZES)
    np.testing.assert_array_equal(got, CODES)
    assert got.dtype == np.int32


BAD = {
    "has no field 'sample_rate'; write it with": {"codes": CODES},
    "has no field 'codes'": {"sample_rate": 24000},
    "has the sample_rate 16000, but the model's is 24000": {"codes": CODES, "sample_rate": 16000},
    r"has the sample_rate of shape \[2\], but": {"codes": CODES, "sample_rate": [24000, 24000]},
    r"has the sample_rate 24000\.0, but": {"codes": CODES, "sample_rate": 24000.0},
    r"codes of shape \[24\] and dtype int32": {"codes": CODES.ravel(), "sample_rate": 24000},
    r"codes of shape \[1, 3, 8\]": {"codes": CODES[None], "sample_rate": 24000},
    r"codes of shape \[3, 0\]": {"codes": CODES[:, :0], "sample_rate": 24000},
    "and dtype float64; they must be": {"codes": CODES / 1.0, "sample_rate": 24000},
    "codes of 5 codebooks, but the model has 4": {
        "codes": np.zeros((5, 2), int),
        "sample_rate": 24000,
    },
    "codes from 9 to 32; the model's go from 0 to 31": {"codes": CODES + 9, "sample_rate": 24000},
    "codes from -1 to 22; the model's": {"codes": CODES - 1, "sample_rate": 24000},
    "codes holds Python objects": {"codes": np.array([{}]), "sample_rate": 24000},
}


@pytest.mark.parametrize("message", BAD)
def test_unfit_codes_are_refused_in_one_sentence(tmp_path, message):
    np.savez(tmp_path / "x.npz", **BAD[message])
    with pytest.raises(ValueError, match=message) as caught:
        read_codes(tmp_path / "x.npz", **SIZES)
    assert "x.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_other_files_are_named(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(ValueError, match=r"x\.npz: there is no such file of codes"):
        read_codes(path, **SIZES)
    np.save(tmp_path / "x.npy", CODES)
    for content in (b"", b"RIFF" * 99, (tmp_path / "x.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz is no file of codes, or damaged"):
            read_codes(path, **SIZES)


def test_no_memory_is_taken_for_what_is_not_there(tmp_path):
    array = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (2**20, 2**20)}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("codes.npy", array.getvalue())
        archive.writestr("sample_rate.npy", array.getvalue())
    with pytest.raises(ValueError, match=r"codes of shape \[1048576, 1048576\] does not fit in"):
        read_codes(tmp_path / "x.npz", **SIZES)


def test_a_file_that_unpacks_to_more_than_is_read_at_once_is_refused_before(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", codes=np.zeros((4, 99999), np.int8), sample_rate=24000)
    monkeypatch.setitem(MOST_BYTES, "codes", 4 * 99998)
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(UserError, match="a field codes of 399996 bytes when unpacked, more than"):
        read_codes(tmp_path / "x.npz", **SIZES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "x.npz"
    write_codes(path, CODES, 24000)
    return path, path.read_bytes()


def test_ten_thousand_damaged_files_load_or_are_refused(tmp_path):
    path, rng = tmp_path / "x.npz", np.random.default_rng(0)
    bases = []
    for save in (np.savez, np.savez_compressed):
        save(path, codes=CODES, sample_rate=24000)
        bases.append(path.read_bytes())
    refused = 0
    for _ in range(10_000):
        damaged = bytearray(bases[rng.integers(2)])
        for at in rng.integers(len(damaged), size=rng.integers(1, 5)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(damaged))] if rng.random() < 0.1 else damaged)
        try:
            codes = read_codes(path, **SIZES)
            assert 0 <= codes.min() <= codes.max() < SIZES["codebook_size"]
        except UserError:
            refused += 1
    assert 1000 < refused < 10_000


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 2000),
)
@example([(0, 0)], 2000)
def test_damaged_files_load_or_are_refused(whole, changes, length):
    path, content = whole
    damaged = bytearray(content)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    path.write_bytes(damaged[:length])
    codes, message = CODES, "x.npz"
    try:
        codes = read_codes(path, **SIZES)
    except ValueError as error:
        message = str(error)
    assert "x.npz" in message
    assert 0 <= codes.min() <= codes.max() < SIZES["codebook_size"]
