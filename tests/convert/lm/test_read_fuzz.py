"""Damaged `config.json` files: each is a configuration or one sentence about it, at little cost."""

import copy
import json
import random
import re
import tracemalloc

import pytest

from moshijax.codec.config import PRESETS as MIMI
from moshijax.convert.lm.beside import read_config
from moshijax.convert.lm.config import to_moshi
from moshijax.convert.lm.helium import transformers_config
from moshijax.convert.mimi.config import transformers_config as mimi_config
from moshijax.lm.config import MoshiConfig
from moshijax.lm.presets import PRESETS
from moshijax.system.errors import UserError
from tests.convert.lm.released import HELIUM, RELEASED


CASES = 10_000
LORA = {"lora": True, "lora_rank": 4, "lora_scaling": 2.0}
BASES = [
    *RELEASED.values(),
    *(to_moshi(config) | LORA for name, config in PRESETS.items() if name.endswith("_tiny")),
    HELIUM,
    HELIUM | {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}},
    transformers_config(PRESETS["helium_2b_tiny"]),
    mimi_config(MIMI["mimi"]),
    {"sample_rate": 24000, "seanet": {"ratios": [8, 6]}, "quantizer": {}, "transformer": {}},
]
VALUES = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**40, -(10**40), 0.0, -0.5, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "32", "silu", "\n\x00\ud800", "a" * 5000),
    *([], [0], [None], [1] * 5000, [[[]]], {}, {"dim": 1}, {"": {"": {}}}, [{"type": "lut"}]),
]


def places(node, path=()):
    """Where a value lies in a tree of JSON."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutate(fields, rng):
    """Changes one value, takes it out, or puts one in."""
    path = rng.choice(list(places(fields)))
    for key in path[:-1]:
        fields = fields[key]
    what, key = rng.random(), path[-1]
    if what < 0.25:
        del fields[key]
    elif what < 0.35 and isinstance(fields, dict):
        fields[rng.choice(["dims", "", "model_type", "hidden_size", "seanet", "norm_emb"])] = None
    elif what < 0.45 and isinstance(fields[key], int | float):
        fields[key] = fields[key] * rng.choice([-1, 2, 3, 0.5, 10**9])
    else:
        fields[key] = copy.deepcopy(rng.choice(VALUES))


def spoil(text, rng):
    """Changes the text itself: bytes, its end, its encoding, a field twice."""
    content = bytearray(text.encode())
    what = rng.random()
    if what < 0.5:
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif what < 0.7:
        del content[rng.randrange(len(content)) :]
    elif what < 0.85:
        encoding = rng.choice(["utf-16", "utf-8-sig", "utf-32-be", "utf-16-le", "latin-1"])
        content = bytearray(text.encode(encoding))
    else:
        content = bytearray(text.replace("{", '{"dim": 64, ', 1).encode())
    return bytes(content)


def drawn(seed):
    rng = random.Random(seed)
    fields = copy.deepcopy(rng.choice(BASES))
    for _ in range(rng.randint(1, 3)):
        if fields:
            mutate(fields, rng)
    text = json.dumps(fields)
    return spoil(text, rng) if rng.random() < 0.2 else text.encode()


def read_or_refuse(path, content):
    """Reads a config; whatever it holds, only a UserError may come of it."""
    path.write_bytes(content)
    try:
        config = read_config(path)
    except UserError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert message.endswith("."), message
        assert message.isprintable(), message
        assert len(message) < 500 + len(str(path)), message
        rest = message.removeprefix(str(path))
        # Of which field, unless the whole is nothing that is known.
        assert re.match(r': ("[^"]|""|\w)| (is|has|holds) ', rest), message
        return None
    assert isinstance(config, MoshiConfig)
    assert config.dim * config.num_layers <= 2**32
    assert max(config.delays) <= 2**12
    assert max(config.depth.sets if config.depth else (0,)) < config.num_codebooks + 1
    assert 0 < config.max_period < float("inf")
    return config


def test_ten_thousand_damaged_configs_are_read_or_refused_in_a_sentence(tmp_path):
    path, read = tmp_path / "config.json", 0
    for seed in range(CASES):
        try:
            read += read_or_refuse(path, drawn(seed)) is not None
        except BaseException as error:
            error.add_note(f"seed {seed}: {drawn(seed)[:3000]!r}")
            raise
    # Some are still good, most are not.
    assert 0.05 * CASES < read < 0.6 * CASES


@pytest.mark.parametrize("field", ["delays", "depformer_weights_per_step_schedule", "n_q"])
def test_a_huge_number_allocates_nothing(field, tmp_path):
    fields = to_moshi(PRESETS["moshi_7b"]) | {field: [10**12] * 17}
    tracemalloc.start()
    for value in ([10**12] * 17, 10**12):
        read_or_refuse(tmp_path / "config.json", json.dumps(fields | {field: value}).encode())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6
