"""Log lines of libraries: they go to a file of the work directory, not to the terminal."""

import logging
import logging.handlers
import pathlib
from collections.abc import Generator
from contextlib import contextmanager

import jax


ROOT = pathlib.Path(__file__).parent.parent.parent  # The folder of this project's packages.
PACKAGES = ("moshijax", "distill")
INSTALLED = ("site-packages", "dist-packages")
FORM = logging.Formatter("%(asctime)s %(levelname).1s %(name)s %(filename)s:%(lineno)d %(message)s")

# Keeps what is logged before there is a work directory.
_early = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record belongs on the terminal: libraries tell their failures by exceptions."""
    path = pathlib.Path(record.pathname)
    ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES
    foreign = record.name == "py.warnings" or set(INSTALLED) & set(path.parts)
    return ours or not foreign or record.levelno >= logging.CRITICAL


def hush() -> None:
    """From here on only this project's own lines, and warnings, come to the terminal."""
    root = logging.getLogger()
    for handler in root.handlers:
        handler.addFilter(is_ours)
    root.addHandler(_early)
    logging.captureWarnings(True)


@contextmanager
def kept(workdir: pathlib.Path) -> Generator[None]:
    """Writes what is logged inside, and what was before, to this process's file."""
    number = jax.process_index()
    name = f"log_{number:03d}.txt" if number else "log.txt"
    file = logging.FileHandler(workdir / name, encoding="utf-8", errors="replace", delay=True)
    file.setFormatter(FORM)
    root = logging.getLogger()
    root.removeHandler(_early)
    _early.setTarget(file)
    _early.flush()
    root.addHandler(file)
    try:
        yield
    finally:
        root.removeHandler(file)
        file.close()
