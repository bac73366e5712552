"""What command lines share: a complaint is one sentence, and so is the end by an interrupt.

Imports nothing that takes long: an interrupt may come while JAX is imported.
"""

import argparse
import importlib
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from moshijax import stdio
from moshijax.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence, and whose help begins with its examples."""

    def format_help(self) -> str:
        """Returns the help; where there are examples, they are the usage."""
        given = self.usage
        if "\n    python -m " in (self.description or ""):
            self.usage = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            self.usage = given

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


def launch(target: str, interrupted: str, *args: Any) -> None:
    """Runs `MODULE:FUNCTION`; when interrupted, says so and ends with the exit code 130."""
    stdio.settle()
    module, _, name = target.partition(":")
    try:
        # Here, since importing JAX takes seconds.
        getattr(importlib.import_module(module), name)(*args)
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        sys.exit(130)
    except SystemExit as end:
        if end.code:
            raise
    if lost := stdio.complaint():
        sys.exit(f"{module}: {lost}")


def hand_over(program: str, commands: Mapping[str, str]) -> None:
    """Runs the command of the first argument with the others."""
    name = sys.argv.pop(1)
    launch(commands[name], f"{program} {name}: interrupted")
