"""Ten thousand damaged sets of weights, whole and in parts: each is read or refused by name."""

import json
import random

import numpy as np

from moshijax.convert.safetensors import DTYPES
from moshijax.convert.weights import open_weights
from moshijax.system.errors import UserError
from tests.convert.test_weights import INDEX, PARTS, cut, write


CASES = 10_000
ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.kernel": np.arange(4, dtype=np.int8),
    "c": np.array(2.5, np.float64),
    "d": np.zeros((0, 3), np.float16),
}
WORDS = [
    *(-1, 0, 1, 2, 3, 4, 7, 8, 12, 24, 2**31, 2**63, 2**64, 2**70, 0.5, 1e308, -0.0),
    *(True, False, None, "", "a", "d", "\x00", "\ud800", "../a", "/etc/passwd", "F8_E4M3", "F4"),
    *([], [0], [2, 3], [0, 24], [24, 28], [[]], {}, {"a": PARTS[0]}, {"dtype": "F32"}),
    *("__metadata__", "weight_map", "dtype", "shape", "data_offsets", *PARTS, *DTYPES),
]


def mutated(draw, value):
    """A JSON value with one of its parts replaced, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        value, key = dict(value), draw.choice(list(value))
        if draw.random() < 0.15:
            value[str(draw.choice(WORDS))] = value.pop(key)
        elif draw.random() < 0.1:
            del value[key]
        else:
            value[key] = mutated(draw, value[key])
        return value
    if isinstance(value, list) and value and draw.random() < 0.7:
        value, at = list(value), draw.randrange(len(value))
        value[at : at + draw.randrange(2)] = [mutated(draw, value[at])]
        return value
    return draw.choice(WORDS)


def torn(draw, content):
    """Bytes cut, changed, put in or taken out."""
    content = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(content)) if content else 0
        kind = draw.randrange(5)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at : at + 1] = draw.randbytes(draw.randrange(3))
        elif kind == 2 and content:
            content[draw.randrange(min(9, len(content)))] = draw.randrange(256)
        elif kind == 3:
            content += draw.randbytes(draw.randrange(1, 9))
        else:
            content[at : at + draw.randrange(40)] = b""
    return bytes(content)


def damaged(draw, content):
    """A safetensors file with its header or its bytes damaged."""
    if draw.random() < 0.5:
        return torn(draw, content)
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    for _ in range(draw.randrange(1, 3)):
        header = mutated(draw, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[length:]


def read_or_refuse(source, folder):
    """Reads every tensor; whatever is in the files, only UserError may come of it."""
    try:
        file = open_weights(source)
        arrays = {name: file[name] for name in file}
    except UserError as error:
        message = str(error)
        assert message.startswith(str(folder)), message
        assert message.isprintable(), message
        assert len(message) < 700 + 2 * len(str(folder)), message
        return None
    for name, array in arrays.items():
        assert array.shape == file.entries[name].shape
        assert array.dtype == file.entries[name].dtype
    return arrays


def test_damaged_files(tmp_path):
    draw, outcomes = random.Random(0), [0, 0]
    path = write(tmp_path / "x.safetensors", ARRAYS)
    content = path.read_bytes()
    for _ in range(CASES // 2):
        path.write_bytes(damaged(draw, content))
        outcomes[read_or_refuse(path, tmp_path) is None] += 1
    assert min(outcomes) > CASES // 100


def test_damaged_indexes_and_parts(tmp_path):
    draw, outcomes = random.Random(1), [0, 0]
    cut(tmp_path, ARRAYS)
    whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for _ in range(CASES // 2):
        name = draw.choice([INDEX, INDEX, *PARTS])
        if name != INDEX:
            content = damaged(draw, whole[name])
        elif draw.random() < 0.4:
            content = torn(draw, whole[name])
        else:
            content = json.dumps(mutated(draw, json.loads(whole[name]))).encode()
        (tmp_path / name).write_bytes(content)
        arrays = read_or_refuse(tmp_path / draw.choice(["", *whole]), tmp_path)
        (tmp_path / name).write_bytes(whole[name])
        outcomes[arrays is None] += 1
        if arrays is not None and name == INDEX:
            assert arrays.keys() == ARRAYS.keys()
    assert min(outcomes) > CASES // 100
