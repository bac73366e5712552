"""What SIGINT and SIGTERM do, also while the main thread computes outside of Python.

A handler in Python waits until the main thread is back in it, after minutes of compiling; and an
exception out of it may be raised in the middle of a library that does not expect one. So the
handlers here do nothing, and a thread decides, which `signal.set_wakeup_fd` wakes at once.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from moshijax.system import files


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Watch:
    """The thread that hears of signals, and what it is to do with them."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.waits = 0  # Contexts that take the first signal as a request.
        self.asked = False
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._wakeup = -1
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        self._handlers = {n: signal.signal(n, _nothing) for n in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread.start()

    def stop(self) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._writer.close()  # Which ends the thread.
        self._thread.join()
        self._reader.close()

    def _listen(self) -> None:
        while numbers := self._reader.recv(64):
            for number in filter(SIGNALS.__contains__, numbers):
                if self.asked or not self.waits:
                    self._end(number)
                self.asked = True

    def _end(self, number: int) -> None:
        rest = ": the same command goes on from the newest checkpoint" if self.asked else ""
        files.discard_partial()
        sys.stdout.flush()
        print(f"{self.program}: interrupted{rest}.", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(128 + number)


def _nothing(number: int, frame: FrameType | None) -> None:
    del number, frame


_watches: list[_Watch] = []


def watch(program: str) -> None:
    """From here on a signal ends this process at once, with one line and 128 plus its number."""
    _watches.append(_Watch(program))
    _watches[-1].start()


@contextmanager
def requests() -> Generator[Callable[[], bool]]:
    """Turns the first SIGTERM or SIGINT into a request to stop; the second one acts at once."""
    own = not _watches
    if own:
        watch("run")
    current = _watches[-1]
    current.waits += 1
    try:
        yield lambda: current.asked
    finally:
        current.waits -= 1
        if own:
            _watches.pop().stop()
