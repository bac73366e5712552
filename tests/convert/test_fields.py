import json
import os

import pytest

from moshijax.convert.lm.beside import read_config
from moshijax.convert.lm.config import to_moshi
from moshijax.lm.presets import PRESETS
from tests.convert.lm.released import refused


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_of_json_is_read(encoding, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(json.dumps(to_moshi(PRESETS["moshi_7b"])).encode(encoding))
    assert read_config(path) == PRESETS["moshi_7b"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"dim": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b'{"dim": 1, "n_q": 2, "dim": 3}', '"dim" is there twice'),
        (b" " * (1 << 20) + b"{}", "has more than 1048576 bytes"),
    ],
)
def test_what_is_no_json_object_is_refused(content, says, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert says in refused(path)


def test_a_folder_or_nothing_in_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    assert "is a folder" in refused(tmp_path / "config.json")
    os.mkfifo(tmp_path / "pipe.json")
    assert "is no plain file" in refused(tmp_path / "pipe.json")
    assert "cannot be read (No such file" in refused(tmp_path / "none.json")
