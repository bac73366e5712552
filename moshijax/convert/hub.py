"""Files of the Hugging Face hub by name: `hf://owner/repository/path/of/file`.

A file is looked for where the hub's own library keeps its downloads, then fetched to there. A
revision may follow the repository: `hf://owner/repository@revision/file`.
"""

import os
import pathlib
import re
import shutil
import urllib.error
import urllib.request


NAME = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?/(?P<file>[\w./-]+)")


def locate(source: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a local file, or of a hub file after fetching it."""
    text = os.fspath(source)
    if not text.startswith("hf://"):
        return pathlib.Path(text)
    match = NAME.fullmatch(text)
    if not match or ".." in match["file"].split("/"):
        raise ValueError(f"{text} is no name of a hub file; write hf://owner/repository/file")
    repo, revision, file = match["repo"], match["revision"] or "main", match["file"]
    home = _cache() / f"models--{repo.replace('/', '--')}"
    pointer = home / "refs" / revision
    commit = pointer.read_text().strip() if pointer.is_file() else revision
    target = home / "snapshots" / commit / file
    if not target.is_file():
        _fetch(f"{_endpoint()}/{repo}/resolve/{revision}/{file}", target, text)
    return target


def _cache() -> pathlib.Path:
    home = pathlib.Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return pathlib.Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _fetch(url: str, target: pathlib.Path, name: str) -> None:
    """Downloads to a temporary file first, so that an interruption leaves nothing half done."""
    request = urllib.request.Request(url)
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                shutil.copyfileobj(reply, file, 1 << 20)
            expected = reply.headers["Content-Length"]
        if expected is not None and partial.stat().st_size != int(expected):
            raise OSError(f"{partial.stat().st_size} of {expected} bytes came")
        partial.replace(target)
    except OSError as error:
        raise ValueError(
            f"{name} cannot be fetched from {url} ({error}); give the path of a local file"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
