"""Compiles a lowered program for a TPU that is not there, and keeps what the compiler writes."""

import contextlib
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax

from moshijax.preflight import hlo, memory
from moshijax.system.errors import UserError
from moshijax.train.chips import Chip


Result = TypeVar("Result")
FITS, EXCEEDS, FAILED = "fits", "does not fit", "not compiled"


@runtime_checkable
class Lowered(Protocol):
    """What `jit(...).lower(...)` gives, as far as it is used here."""

    def compile(self, compiler_options: dict[str, str | bool]) -> jax.stages.Compiled:
        """The compiled program."""
        ...


class Outcome(NamedTuple):
    """What became of a compilation."""

    status: str
    message: str  # The compiler's, where it refused.
    seconds: float
    usage: memory.Usage | None
    module: hlo.Module | None  # The optimised program; None unless it fits.


def compile_for(lowered: Lowered, chip: Chip, argument_bytes: float) -> Outcome:
    """Compiles; an error of the compiler is an answer.

    Args:
        lowered: what `jit(...).lower(...)` gave.
        chip: what it is compiled for.
        argument_bytes: what the arguments take of one chip.

    Raises:
        UserError: these versions of JAX and libtpu do not tell what memory a program takes.
    """
    start = time.perf_counter()
    # After an interrupt the compiler may still write there.
    with tempfile.TemporaryDirectory(prefix="preflight_", ignore_cleanup_errors=True) as scratch:
        folder = pathlib.Path(scratch)
        # as_text() fails on v5p and v6e, so the program is read from its dump everywhere.
        options = {"xla_dump_to": scratch, "xla_dump_hlo_as_text": True}
        try:
            with _uncached():
                compiled = _beside(lambda: lowered.compile(compiler_options=options))
        except jax.errors.JaxRuntimeError as error:
            seconds = time.perf_counter() - start
            return _refused(str(error), seconds, folder, argument_bytes)
        seconds = time.perf_counter() - start
        stats = compiled.memory_analysis()
        if stats is None:
            raise UserError(
                "the compiler says nothing of the memory that the program takes: install the "
                "versions of jax and libtpu in constraints.txt."
            )
        module = hlo.parse(_read(folder, "after_codegen"))
        needed = memory.read_total(_read(folder, "memory-usage-report"))
        assignment = _read(folder, "buffer-assignment")
    arguments, output = stats.argument_size_in_bytes, stats.output_size_in_bytes
    needed = needed or stats.peak_memory_in_bytes
    usage = memory.Usage(
        needed=needed,
        available=chip.hbm,
        arguments=arguments,
        temporaries=max(needed - arguments, 0.0),
        outputs=output,
        aliased=stats.alias_size_in_bytes,
        largest=memory.largest_buffers(assignment, module),
    )
    return Outcome(FITS, "", seconds, usage, module)


def _beside(function: Callable[[], Result]) -> Result:
    """The result of a function in a thread of its own, so that an interrupt ends the wait for it.

    Python handles no signal in the main thread while a compiler's code runs there.
    """
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="compile", daemon=True).start()
    return result.result()


@contextlib.contextmanager
def _uncached() -> Generator[None]:
    """Without JAX's cache of programs, which cannot read those for a TPU that is not there."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _refused(message: str, seconds: float, folder: pathlib.Path, arguments: float) -> Outcome:
    """What an error of the compiler means: out of memory, with the largest buffers, or else."""
    brief = " ".join(message.split("\n\n")[0].split())[:400]
    overflow = memory.read_overflow(message)
    if overflow is None:
        return Outcome(FAILED, brief, seconds, None, None)
    module = hlo.parse(_read(folder, "after_optimizations"))
    largest = memory.largest_buffers(_read(folder, "buffer-assignment"), module)
    usage = memory.Usage(
        needed=overflow.needed,
        available=overflow.available,
        arguments=arguments,
        temporaries=max(overflow.needed - arguments, 0.0),
        outputs=0.0,
        aliased=0.0,
        largest=largest or overflow.largest,
    )
    return Outcome(EXCEEDS, brief, seconds, usage, None)


def _read(folder: pathlib.Path, what: str) -> str:
    """The longest of the dumped files that end so: that of the main program."""
    files = sorted(folder.glob(f"*{what}.txt"), key=lambda path: path.stat().st_size)
    return files[-1].read_text() if files else ""
