"""What command lines share: a complaint is one sentence, and so is the end by an interrupt.

Imports nothing that takes long: an interrupt may come while JAX is imported.
"""

import argparse
import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Ends with the complaint."""
        self.exit(1, f"{self.prog}: {message}; see --help\n")


def make_parser(prog: str, description: str | None) -> Parser:
    """Returns a parser that shows its description as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    return Parser(prog=prog, description=description, formatter_class=form, allow_abbrev=False)


@contextmanager
def complaining(program: str) -> Generator[None]:
    """Ends with one sentence when the input is wrong."""
    try:
        yield
    except (ValueError, OSError) as error:
        # JAX's own errors are worth their traceback; sentences of ours stand alone.
        if type(error) is not ValueError and not isinstance(error, OSError):
            raise
        sys.exit(f"{program}: {' '.join(str(error).split())}")


def launch(module: str, interrupted: str) -> None:
    """Runs `main` of a module; when interrupted, says so and ends with the exit code 130."""
    try:
        # Here, since importing JAX takes seconds.
        importlib.import_module(module).main()
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        sys.exit(130)
