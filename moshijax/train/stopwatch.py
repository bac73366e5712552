"""Times the steps of a run."""

import time
from collections.abc import Generator
from contextlib import contextmanager


class Stopwatch:
    """Times steps, without what is not training and without the first, which compiles."""

    def __init__(self) -> None:
        self._began = self._counted_from = time.perf_counter()
        self._steps = -1

    def step(self) -> None:
        """One more step was asked for."""
        self._steps += 1
        if not self._steps:
            self._counted_from = time.perf_counter()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leaves out what happens inside."""
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start
        self._counted_from += time.perf_counter() - start

    def lap(self) -> tuple[float, float]:
        """Steps a second (nan before two steps), and all seconds, since the last lap."""
        now = time.perf_counter()
        rate = self._steps / (now - self._counted_from) if self._steps > 0 else float("nan")
        seconds = now - self._began
        self._began = self._counted_from = now
        self._steps = 0
        return rate, seconds
