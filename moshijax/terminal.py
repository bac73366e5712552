"""What command lines share: a complaint is one sentence, and so is the end by an interrupt.

Imports nothing that takes long: an interrupt may come while JAX is imported.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from moshijax import stdio
from moshijax.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Ends with the complaint."""
        self.exit(1, f"{self.prog}: {message}; see --help\n")


def make_parser(prog: str, description: str | None) -> Parser:
    """Returns a parser that shows its description as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    return Parser(prog=prog, description=description, formatter_class=form, allow_abbrev=False)


def is_sentence(error: BaseException) -> bool:
    """Whether an error's message is for the user; the others are worth their traceback."""
    # Subclasses of ValueError are JAX's own, or Python's about encodings.
    return isinstance(error, UserError | OSError) or type(error) is ValueError


def sentence(error: BaseException) -> str:
    """An error's message on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        # Without Python's [Errno 28].
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


@contextmanager
def complaining(program: str) -> Generator[None]:
    """Ends with one sentence when the input is wrong."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not is_sentence(error):
            raise
        sys.exit(f"{program}: {sentence(error)}")


class Ended(BaseException):
    """The process was asked to end, or its terminal has closed."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def _end(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # A second one does not wait.
    raise Ended(number)


def launch(target: str, interrupted: str, *args: Any) -> None:
    """Runs `MODULE:FUNCTION`; when interrupted, says so and ends with 128 and the signal's number.

    SIGTERM and the end of a terminal are interrupts too, so that nothing half written is left,
    unless they are ignored, as under nohup.
    """
    stdio.settle()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    module, _, name = target.partition(":")
    try:
        # Here, since importing JAX takes seconds.
        getattr(importlib.import_module(module), name)(*args)
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        sys.exit(128 + signal.SIGINT)
    except Ended as ended:
        sys.stderr.write(f"{interrupted}\n")
        sys.exit(128 + ended.number)
    except SystemExit as end:
        if end.code:
            raise
    if lost := stdio.complaint():
        sys.exit(f"{module}: {lost}")
