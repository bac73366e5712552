"""What command lines share: their parser, and a complaint of one sentence.

Imports nothing that takes long: an interrupt may come while JAX is imported.
"""

import argparse
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NoReturn

from moshijax.system.errors import UserError
from moshijax.system.version import version


RARE = "options that are rarely needed"  # A group that --helpfull shows and --help does not.


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence, and whose help begins with its examples."""

    def error(self, message: str) -> NoReturn:
        """Ends with the complaint."""
        self.exit(1, f"{self.prog}: {message}; see --help\n")

    def format_help(self, full: bool = False) -> str:
        """Returns the help; where there are examples, they are the usage."""
        text = super().format_help()
        if f"    {self.prog} " in (self.description or ""):
            text = text[text.index(self.description or "") :]
        before, rare, _ = text.partition(f"\n{RARE}:")
        return text if full or not rare else f"{before}\n--helpfull shows the {RARE} too.\n"


class _HelpFull(argparse.Action):
    def __call__(self, parser: Any, *_: object, **__: object) -> None:
        print(parser.format_help(full=True), end="")
        parser.exit()


def make_parser(prog: str, description: str | None) -> Parser:
    """Returns a parser that shows its description as it is written."""

    def form(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=27)

    top = Parser(
        prog=prog, description=description, formatter_class=form, allow_abbrev=False, add_help=False
    )
    top.add_argument("-h", "--help", "--helpshort", action="help", help="show this and end")
    top.add_argument("--helpfull", action=_HelpFull, nargs=0, help=argparse.SUPPRESS)
    top.add_argument("--version", action="version", version=version(), help=argparse.SUPPRESS)
    return top


def is_sentence(error: BaseException) -> bool:
    """Whether an error's message is for the user; the others are worth their traceback."""
    named = isinstance(error, OSError) and error.filename is not None
    return named or isinstance(error, UserError)


def sentence(error: BaseException) -> str:
    """An error's message on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        # str(error) would begin with [Errno 28].
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


@contextmanager
def complaining(program: str) -> Generator[None]:
    """Ends with one sentence when the input is wrong; any other error keeps its traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        if not is_sentence(error):
            raise
        sys.exit(f"{program}: {sentence(error)}")
