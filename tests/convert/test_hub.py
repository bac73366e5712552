import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from moshijax.convert.hub import HubName, locate, parse
from moshijax.convert.weights import CODEC, find_beside, open_weights
from moshijax.system.errors import UserError
from tests.convert.hub_server import COMMIT, serving
from tests.convert.test_weights import ARRAYS, INDEX, PARTS, cut, write


CONTENT = b"weights" * 1000
ODD = "folder a/mimi-pytorch-e351c8d8@125 +1=(ü)'&%#?.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving({"kyutai/mimi": {"sub/model.safetensors": CONTENT, ODD: CONTENT}}) as server:
        use(monkeypatch, server.address, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "secret")
        yield server


def use(monkeypatch, address, cache):
    """What HF_ENDPOINT and HF_HUB_CACHE do to a process that starts."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_paths_stay(tmp_path):
    assert locate(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"
    assert locate("a/b [1]\\c") == pathlib.Path("a/b [1]\\c")


@pytest.mark.parametrize("file", ["sub/model.safetensors", ODD])
def test_a_file_is_fetched_once(file, hub, tmp_path):
    path = locate(f"hf://kyutai/mimi/{file}")
    assert path == tmp_path / "cache" / "models--kyutai--mimi" / "snapshots" / COMMIT / file
    assert path.read_bytes() == CONTENT
    assert locate(f"hf://kyutai/mimi/{file}") == path
    assert [command for command, *_ in hub.requests] == ["HEAD", "GET", "HEAD"]
    assert {token for *_, token in hub.requests} == {"Bearer secret"}


def test_names_are_read_with_their_revision():
    for text, repo, revision, path in (
        ("hf://a/b", "a/b", "main", ""),
        ("hf://a/b/", "a/b", "main", ""),
        ("hf://a.b/c_d-e.f@v1.0/g/h@i+j k", "a.b/c_d-e.f", "v1.0", "g/h@i+j k"),
        ("hf://a/b@refs/pr/3/c/d", "a/b", "refs/pr/3", "c/d"),
        ("hf://a/b@feature%2Fx/c", "a/b", "feature/x", "c"),
        (f"hf://a/b@{COMMIT}", "a/b", COMMIT, ""),
        ("hf://a/b/c\\d", "a/b", "main", "c\\d"),
    ):
        name = parse(text)
        assert name == HubName(repo, revision, path)
        assert parse(str(name)) == name


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", COMMIT])
def test_a_revision_is_fetched(revision, hub):
    hub.revisions = ("v1.0", "refs/pr/3")
    assert locate(f"hf://kyutai/mimi@{revision}/sub/model.safetensors").read_bytes() == CONTENT
    quoted = revision.replace("/", "%2F")
    assert hub.requests[0][1] == f"/kyutai/mimi/resolve/{quoted}/sub/model.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "hf://",
        "hf://kyutai",
        "hf://a b/c/d",
        "hf://o/r//etc/passwd",
        "hf://o/r/a//b",
        "hf:///etc/passwd",
        "hf://a/b/../../etc/passwd",
        "hf://a/b/c/..",
        "hf://a/b/..\\..\\c",
        "hf://a/b/./c",
        "hf://../b/c",
        "hf://a/../c",
        "hf://a/b@../c",
        "hf://a/b@..%2F..%2Fc/d",
        "hf://a/b@%2Fetc/d",
        "hf://a/b/c\nd",
        "hf://a/b/c\x00d",
        "hf://a/b/\udcff",
        "hf://a--b/c/d",
        "hf://datasets/a/b/c",
        "hf:/a/b/c",
        "hf:a/b",
        "https://huggingface.co/kyutai/mimi/blob/main/model.safetensors",
        "gs://bucket/model.safetensors",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name, hub, tmp_path):
    with pytest.raises(UserError, match=r"write hf://owner/repository/file") as caught:
        locate(name)
    assert "\n" not in str(caught.value)
    assert not hub.requests
    assert not (tmp_path / "cache").exists()


def test_a_repository_is_no_file():
    with pytest.raises(UserError, match=r"hf://kyutai/mimi names a repository and no file of it"):
        locate("hf://kyutai/mimi")


def test_an_interrupted_download_is_taken_up_where_it_broke_off(hub):
    hub.cuts = [1000, 2000]
    assert locate("hf://kyutai/mimi/sub/model.safetensors").read_bytes() == CONTENT
    assert [command for command, *_ in hub.requests] == ["HEAD", "GET", "GET", "GET"]


def test_a_broken_download_leaves_no_file(hub, tmp_path):
    hub.cuts = [0] * 20
    with pytest.raises(
        UserError, match=r"model\.safetensors cannot be fetched from http://127"
    ) as e:
        locate("hf://kyutai/mimi/sub/model.safetensors")
    assert "\n" not in str(e.value)
    assert not [f for f in files(tmp_path / "cache") if "snapshots" in f]


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, None), r"is refused by the hub \(401\): HF_TOKEN is absent, out of date"),
        ((401, "RepoNotFound"), r"is refused by the hub \(401\)|that the hub does not show"),
        ((401, "GatedRepo"), r"given only to who agreed to its owner's terms"),
        ((403, "GatedRepo"), r"given only to who agreed to its owner's terms"),
        ((403, None), r"is refused by the hub \(403\)"),
        ((404, "RepoNotFound"), r"in a repository that the hub does not show"),
        ((404, "RevisionNotFound"), r"kyutai/mimi has no revision 'main'"),
        ((404, "EntryNotFound"), r"kyutai/mimi has no file 'sub/model\.safetensors' at the rev"),
        ((500, None), r"the hub answers with 500"),
        ((200, None), r"what answers at http://127.* is no hub"),
    ],
)
def test_each_refusal_of_the_hub_is_a_sentence(refusal, message, hub):
    hub.refusal = refusal
    with pytest.raises(UserError, match=message) as caught:
        locate("hf://kyutai/mimi/sub/model.safetensors")
    assert str(caught.value).startswith("hf://kyutai/mimi/sub/model.safetensors")
    assert "\n" not in str(caught.value)


def test_without_a_network_what_was_fetched_is_found(hub, monkeypatch, tmp_path):
    path = locate("hf://kyutai/mimi/sub/model.safetensors")
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert locate("hf://kyutai/mimi/sub/model.safetensors") == path
    with pytest.raises(UserError, match=r"cannot be fetched from http://127.0.0.1:9 .*local file"):
        locate("hf://kyutai/mimi/other.safetensors")


def test_offline_what_was_fetched_is_found(hub, monkeypatch):
    path = locate("hf://kyutai/mimi/sub/model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert locate("hf://kyutai/mimi/sub/model.safetensors") == path
    with pytest.raises(UserError, match=r"not among the downloads in .*cache, and HF_HUB_OFFLINE"):
        locate("hf://kyutai/mimi/other.safetensors")
    assert len(hub.requests) == before


def test_a_token_that_no_header_can_hold_is_a_sentence(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "sécret")
    with pytest.raises(UserError, match=r"cannot be fetched: HF_TOKEN holds other characters than"):
        locate("hf://kyutai/mimi/sub/model.safetensors")


@pytest.mark.parametrize("address", ["localhost", "ftp://127.0.0.1", "http://["])
def test_an_address_that_is_none_is_a_sentence(address, monkeypatch, tmp_path):
    use(monkeypatch, address, tmp_path / "cache")
    with pytest.raises(UserError, match=rf"cannot be fetched from {re.escape(address)} "):
        locate("hf://kyutai/mimi/sub/model.safetensors")


@pytest.mark.parametrize("address", ["http://host:x", "http://host:99999", "http://["])
def test_an_address_that_cannot_be_taken_apart_is_named(address):
    # In a process of its own: huggingface-hub reads it as it is imported.
    line = "from moshijax.convert.hub import locate; locate('hf://kyutai/mimi/model.safetensors')"
    done = subprocess.run(
        [sys.executable, "-c", line],
        env=os.environ | {"HF_ENDPOINT": address, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"moshijax.system.errors.UserError: HF_ENDPOINT: {address!r} is no address ("
    )


def test_a_cache_that_cannot_be_written_is_named(hub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    use(monkeypatch, hub.address, tmp_path / "file" / "cache")
    with pytest.raises(UserError, match=r"cannot be kept in .*file.*set HF_HUB_CACHE to a folder"):
        locate("hf://kyutai/mimi/sub/model.safetensors")


def repository(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", ["", "/", f"/{INDEX}", f"/{PARTS[1]}"])
def test_parts_are_fetched_at_the_commit_of_their_index(name, hub, tmp_path):
    hub.repos["a/helium"] = repository(cut(tmp_path / "x")) | {"config.json": b"{}"}
    file = open_weights(f"hf://a/helium{name}")
    assert file.keys() == ARRAYS.keys()
    np.testing.assert_array_equal(file["d"], ARRAYS["d"])
    revisions = {part: {p.split("/")[4] for _, p, _ in hub.requests if part in p} for part in PARTS}
    assert COMMIT in revisions[PARTS[0]] & revisions[PARTS[1]]
    assert find_beside(f"hf://a/helium{name}", "config.json").read_text() == "{}"


def test_folders_of_a_repository_hold_weights_too(hub, tmp_path):
    content = write(tmp_path / "x", ARRAYS).read_bytes()
    name = "mimi-pytorch-e351c8d8@125.safetensors"
    config = json.dumps({"mimi_name": name}).encode()
    hub.repos["a/stt"] = {f"v1/{name}": content, "v1/config.json": config}
    assert open_weights("hf://a/stt/v1", CODEC).path.name == name
    with pytest.raises(UserError, match=r"hf://a/stt/v1 has no model.safetensors, whole or in par"):
        open_weights("hf://a/stt/v1")
    with pytest.raises(
        UserError, match=r"a/stt has no file 'v2/x.safetensors' at the revision main"
    ):
        open_weights("hf://a/stt/v2/x.safetensors")


def test_an_index_of_the_hub_that_names_files_elsewhere_is_refused(hub):
    index = json.dumps({"weight_map": {"a": "/etc/passwd"}}).encode()
    hub.repos["a/bad"] = {INDEX: index}
    with pytest.raises(UserError, match=r"is in '/etc/passwd', which is no file beside it"):
        open_weights("hf://a/bad")


def test_the_environment_chooses_hub_cache_and_token(hub, tmp_path):
    code = (
        "import sys; from moshijax.convert.hub import locate\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "print(locate('hf://kyutai/mimi/sub/model.safetensors'))"
    )
    env = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "another",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert pathlib.Path(done.stdout.strip()).is_relative_to(tmp_path / "home" / "hub")
    assert {token for *_, token in hub.requests} == {"Bearer another"}
