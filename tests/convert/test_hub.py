import http.server
import threading

import pytest

from moshijax.convert.hub import locate


CONTENT = b"weights" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers["Authorization"]))
        if self.path != "/kyutai/mimi/resolve/main/sub/model.safetensors":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + self.server.short))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.short = [], 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_paths_stay(tmp_path):
    assert locate(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"


def test_file_is_fetched_once(hub):
    path = locate("hf://kyutai/mimi/sub/model.safetensors")
    assert path.read_bytes() == CONTENT
    assert locate("hf://kyutai/mimi/sub/model.safetensors") == path
    assert hub.requests == [("/kyutai/mimi/resolve/main/sub/model.safetensors", "Bearer secret")]


def test_downloads_of_the_hub_library_are_found(hub, tmp_path):
    home = tmp_path / "home" / "hub" / "models--kyutai--mimi"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc123")
    target = home / "snapshots" / "abc123" / "model.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    assert locate("hf://kyutai/mimi/model.safetensors") == target
    assert not hub.requests


def test_absent_file_is_named(hub):
    with pytest.raises(ValueError, match=r"cannot be fetched from .*404.*local file"):
        locate("hf://kyutai/mimi/none.safetensors")


def test_broken_download_leaves_nothing(hub, tmp_path):
    hub.short = 5
    with pytest.raises(ValueError, match=r"cannot be fetched"):
        locate("hf://kyutai/mimi/sub/model.safetensors")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_no_network_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be fetched from http://127.0.0.1:9"):
        locate("hf://kyutai/mimi/model.safetensors")


@pytest.mark.parametrize("name", ["hf://kyutai/mimi", "hf://a/b/../../etc/passwd", "hf://a b/c/d"])
def test_impossible_names_are_refused(name):
    with pytest.raises(ValueError, match=r"is no name of a hub file"):
        locate(name)
