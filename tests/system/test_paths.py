import os
import pathlib
import tempfile

import pytest

from moshijax.system.errors import UserError
from moshijax.system.paths import local_path, plain_path


@pytest.mark.parametrize(
    "text", ["gs://lab-runs/x", "gs:/lab-runs/x", "s3://a", "file:///x", "memory://", "https://h/x"]
)
def test_a_url_is_refused_with_the_way_out(text):
    with pytest.raises(UserError, match=f"^--out: '{text}' is a URL.*mount the bucket"):
        local_path("--out", text)
    with pytest.raises(UserError, match="is a URL"):
        local_path("--out", pathlib.Path(text) if ":/" in str(pathlib.Path(text)) else text)


@pytest.mark.parametrize("text", ["x", "lr:1e-3/x", "a:b", "C:/x", "./gs://x", "/gs/x", "a?b#c"])
def test_other_names_are_paths(text):
    assert local_path("--out", text) == pathlib.Path(text)


def test_an_empty_path_is_refused():
    with pytest.raises(UserError, match="--out: the path is empty"):
        local_path("--out", "")


@pytest.mark.parametrize("name", [b"lr[1e-3]", b"a\\b", b"*", b"caf\xc3\xa9", b"\xff", b"'\"%#\n"])
def test_the_plain_path_of_a_folder_leads_to_it(tmp_path, name, monkeypatch):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))  # Not plain either.
    with plain_path(folder) as plain:
        assert str(plain).isascii()
        assert not set(str(plain)) & set("[]*?\\%#'\"\n")
        (plain / "x").write_text("here")
        assert (folder / "x").read_text() == "here"
    assert not plain.is_symlink()


def test_the_plain_path_of_a_plain_folder_is_its_own(tmp_path):
    with plain_path(tmp_path) as plain:
        assert plain == tmp_path


def test_a_folder_that_would_be_taken_for_a_bucket_gets_another_name():
    with plain_path(pathlib.Path("/gs/runs")) as plain:
        assert plain.readlink() == pathlib.Path("/gs/runs")
