"""Files that are written whole or not at all."""

import os
import pathlib
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Generator[IO[Any]]:
    """Opens a file beside `path` that takes its place at the end, unless something fails."""
    target = pathlib.Path(path)
    # On shared storage another host may have a process of the same number.
    beside = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(beside, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
