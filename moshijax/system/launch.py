"""Starts a command; an interrupt ends it in one sentence.

Imports nothing that takes long: an interrupt may come while JAX is imported.
"""

import importlib
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

from moshijax.system import stdio


class Ended(BaseException):
    """The process was asked to end, or its terminal has closed."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def _end(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # A second one does not wait.
    raise Ended(number)


def launch(target: str, interrupted: str, *args: object) -> None:
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
        # Imported within the try, since importing JAX takes seconds.
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


def hand_over(program: str, commands: Mapping[str, str]) -> None:
    """Runs the command of the first argument with the others."""
    name = sys.argv.pop(1)
    launch(commands[name], f"{program} {name}: interrupted")
