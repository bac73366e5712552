"""Paths of this machine, also as the libraries that are called read them."""

import os
import pathlib
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

from moshijax.system.errors import UserError


# Both gs://x and gs:/x, which pathlib makes of it; a colon in other names is no URL.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(gs|s3|az|hf|abfss?|hdfs|https?|file):/")
PLAIN = re.compile(r"[A-Za-z0-9_./ @+=,:~-]*")  # What every library takes as it is.
REMOTE = ("gs", "s3", "az", "hf")  # First folders: epath takes /gs/x for gs://x.


def local_path(option: str, path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file or folder of this machine, be it there or not.

    Raises:
        UserError: it is a URL, of which a folder with that name would be made here, or empty.
    """
    text = os.fspath(path)
    if URL.match(text):
        raise UserError(
            f"{option}: {text!r} is a URL, which is not read or written here: mount the bucket "
            "(gcsfuse BUCKET /bucket) and give the path below it, such as /bucket/x."
        )
    if not text:
        raise UserError(f"{option}: the path is empty: name a file or folder (. for this one).")
    return pathlib.Path(text)


@contextmanager
def plain_path(folder: pathlib.Path) -> Generator[pathlib.Path]:
    """A path to this folder for libraries that give some characters a meaning of their own.

    Orbax globs below the path it is given, and TensorStore wants UTF-8: brackets, backslashes,
    stars or other bytes in it lose what lies there. A link without them leads to the same folder.
    """
    path = folder.absolute()
    if PLAIN.fullmatch(str(path)) and path.parts[1:2] not in [(name,) for name in REMOTE]:
        yield path
        return
    place = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="moshijax_", dir=place if PLAIN.fullmatch(place) else "/tmp"
    ) as room:
        link = pathlib.Path(room) / "folder"
        link.symlink_to(path, target_is_directory=True)
        yield link
