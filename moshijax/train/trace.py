"""Traces chosen steps for TensorBoard's or Perfetto's profile view."""

import pathlib
import re
from collections.abc import Generator
from contextlib import contextmanager

import jax
from jaxtyping import PyTree

from moshijax.system.errors import UserError


def parse_steps(text: str, num_steps: int) -> range:
    """The steps of `steps=10..12` or `steps=10`.

    Raises:
        UserError: another form, or steps that the run does not have.
    """
    found = re.fullmatch(r"steps=(\d+)(?:\.\.(\d+))?", text)
    if not found:
        raise UserError(f"profile: {text!r} is not like steps=10..12.")
    begin, end = int(found[1]), int(found[2] or found[1])
    if not 1 <= begin <= end <= num_steps:
        raise UserError(
            f"profile: {text!r} are not steps of this run: take some from 1 to {num_steps}, "
            "the first of them before the last."
        )
    return range(begin, end + 1)


class Trace:
    """The trace of some steps of one process, in a folder of its own.

    Hosts run ahead of their devices, so it waits for the step before the first and for the last:
    what is recorded are these steps and nothing else.

    Args:
        text: which steps, as `parse_steps` reads them; None: none.
        num_steps: of the run.
        workdir: of the run.
    """

    def __init__(self, text: str | None, num_steps: int, workdir: pathlib.Path) -> None:
        self._steps = parse_steps(text, num_steps) if text else range(0)
        self.folder = workdir / "profile" / f"process_{jax.process_index():03d}"
        self._on = False

    def missed(self, step: int) -> bool:
        """Whether all steps to be traced are done by this one."""
        return bool(self._steps) and self._steps[-1] <= step

    @contextmanager
    def step(self, step: int, before: PyTree[jax.Array]) -> Generator[None]:
        """Marks what happens inside as one step; `before` is what the step before left."""
        if step in self._steps and not self._on:
            jax.block_until_ready(before)
            jax.profiler.start_trace(str(self.folder))
            self._on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def done(self, step: int, after: PyTree[jax.Array]) -> bool:
        """Ends the trace with its last step, whose results are `after`; whether it did."""
        if not self._on or step < self._steps[-1]:
            return False
        jax.block_until_ready(after)
        self.close()
        return True

    def close(self) -> None:
        """Writes what there is of a trace."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
