"""Standard streams whose faults do not end the work: a reader that left, a character that lacks.

Imports nothing that takes long, since it comes before all else.
"""

import errno
import io
import os
import select
import sys
from typing import Any


class _Lasting(io.FileIO):
    """A stream whose writes go nowhere once one of them failed."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all of it, unless the reader is gone, the disk is full or the terminal closed."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                count = super().write(view[done:])
                done += count or 0
                if count is None:
                    # The terminal was made non-blocking by another program, and is not ready.
                    select.select((), (self,), ())
        except OSError as error:
            self.error = error
        return len(view)


def settle() -> None:
    """Replaces the standard streams by ones that outlive their readers; call it first.

    What the encoding of a terminal lacks is written as an escape. A stream that is
    closed becomes the null device: else the next file that is opened, such as a recording, would
    have its number, and hold what C libraries write to standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open to the end)
        elif mode == "w" and not isinstance(_raw(stream), _Lasting):
            setattr(sys, name, _lasting(stream))


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # As Python itself does for -u.
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: object) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _failure() -> OSError | None:
    """Why nothing that is written to standard output arrives any more; None while it does."""
    sys.stdout.flush()
    return getattr(_raw(sys.stdout), "error", None)


def unread() -> bool:
    """Whether nobody reads standard output any more."""
    return _failure() is not None


def complaint() -> str | None:
    """What to say at the end of a run whose output was lost; a reader that left wanted no more."""
    error = _failure()
    if error is None or error.errno == errno.EPIPE:
        return None
    return f"standard output was cut short ({error.strerror}); give it room, or another place"
