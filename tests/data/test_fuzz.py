"""Damaged shards: each is read as what it was or refused in a sentence, 10,000 of them."""

import io

import numpy as np

from moshijax.data.records import decode, encode
from moshijax.data.windows import load, write_shard
from moshijax.lm.presets import PRESETS
from moshijax.system.errors import UserError
from tests.lm_models import random_codes


CONFIG = PRESETS["moshi_7b_tiny"]
CODES = random_codes(CONFIG, 1, 12)[0]
WORDS = (
    *(b"'<f4'", b"'|O'", b"'<c8'", b"'|b1'", b"'>i2'", b"'<M8[s]'", b"'<U3'", b"[('a','<i2')]"),
    *(b"(17, -1)", b"()", b"(17,)", b"(1, 17, 12)", b"(10**9, 9)", b"(99999999999, 99)", b"None"),
    *(b"True", b"[" * 300, b"{", b"'''", b"\\", b"\0", b"1e999", b"lambda: 0", b"'\xff'"),
)


def records(rng):
    """Records of every kind of array, whole."""
    kinds = ("i1", "<i2", ">i4", "<i8", "u1", "<u8", "<f4", "<f8", "?", "<c8", "<U2", "S3")
    shapes = ((17, 12), (17, 0), (9, 12), (204,), (1, 17, 12), (12, 17), ())
    kind, shape = kinds[rng.integers(len(kinds))], shapes[rng.integers(len(shapes))]
    array = np.zeros(shape, kind) if shape not in ((17, 12), (204,)) else CODES.astype(kind)
    file = io.BytesIO()
    version = (int(rng.integers(1, 4)), 0)
    array = np.asarray(array, order="CF"[rng.integers(2)])
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def damaged(rng, data):
    """Bytes cut, flipped, moved, doubled or replaced, most of them in the header."""
    data = bytearray(data)
    near = min(len(data), 140) if rng.integers(3) else len(data)
    at = int(rng.integers(near + 1))
    match rng.integers(6):
        case 0:
            del data[at:]
        case 1 if len(data):
            data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
        case 2:
            data[at : at + int(rng.integers(1, 40))] = rng.bytes(int(rng.integers(1, 40)))
        case 3:
            word = WORDS[rng.integers(len(WORDS))]
            data[at : at + len(word) * int(rng.integers(2))] = word
        case 4:
            data[at:at] = data[: int(rng.integers(len(data) + 1))]
        case _:
            del data[at : at + int(rng.integers(1, 40))]
    return bytes(data)


def outcome(read):
    """What is read, or the sentence that it is refused in."""
    try:
        return read()
    except UserError as error:
        return str(error)


def test_damaged_records_are_refused_in_a_sentence():
    rng = np.random.default_rng(0)
    good = encode(CODES, "here")
    read = 0
    for _ in range(9000):
        record = damaged(rng, good if rng.integers(2) else records(rng))
        found = outcome(lambda data=record: decode(data, CONFIG, "record 0 of a.array_record"))
        if isinstance(found, str):
            assert found.startswith("record 0 of a.array_record")
            continue
        assert found.shape[0] == 17
        assert found.dtype == np.int32
        read += 1
    assert 50 < read < 6000


def test_damaged_files_are_refused_in_a_sentence(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.array_record"
    windows = [random_codes(CONFIG, 1, length)[0] for length in (12, 5, 9)]
    write_shard(path, windows)
    good = path.read_bytes()
    filled = np.flatnonzero(np.frombuffer(good, np.uint8))  # Between them lies padding.
    read = 0
    for _ in range(1000):
        data = bytearray(good)
        at = int(rng.choice(filled) if rng.integers(2) else rng.integers(len(data)))
        match rng.integers(4):
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                data[at : at + 60] = rng.bytes(int(rng.integers(120)))
            case _:
                del data[at : at + int(rng.integers(1, 70_000))]
        path.write_bytes(data)
        found = outcome(lambda: load(str(path), 12, CONFIG))
        if isinstance(found, str):
            assert "a.array_record" in found
            continue
        for i, codes in enumerate(windows):
            np.testing.assert_array_equal(found[i], codes)
        read += 1
    assert 0 < read < 500
