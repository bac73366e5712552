"""A hub on this machine: repositories as tables of bytes, answered as the real one answers."""

import http.server
import re
import threading
import urllib.parse
from contextlib import contextmanager


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub = self.server
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            return self.refuse(404, None)
        hub.requests.append((self.command, self.path, self.headers["Authorization"]))
        repo, revision, file = map(urllib.parse.unquote, match.groups())
        if hub.refusal is not None:
            return self.refuse(*hub.refusal)
        if repo not in hub.repos:
            return self.refuse(404, "RepoNotFound")
        if revision not in ("main", COMMIT, *hub.revisions):
            return self.refuse(404, "RevisionNotFound")
        if file not in hub.repos[repo]:
            return self.refuse(404, "EntryNotFound")
        return self.send(hub.repos[repo][file], body)

    def refuse(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, body):
        hub = self.server
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(content) & (2**64 - 1):x}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            size = len(content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if body:
            cut = hub.cuts.pop(0) if hub.cuts else None
            self.wfile.write(content[start:][:cut])

    def log_message(self, *args):
        pass


@contextmanager
def serving(repos):
    """Serves repositories, {name: {file: bytes}}, on loopback; yields the server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repos, server.requests, server.revisions = repos, [], ()
    server.refusal, server.cuts = None, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
