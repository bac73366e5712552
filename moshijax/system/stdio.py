"""Standard streams that never end the work: the reader may go, characters may be missing.

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
                    # Another program has made the terminal non-blocking, and it is not ready.
                    select.select((), (self,), ())
        except OSError as error:
            self.error = error
        return len(view)


def settle() -> None:
    """Replaces the standard streams by some that outlive their readers; call it first.

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


def _lasting(stream: Any) -> io.TextIOWrapper:
    stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # As Python itself does for -u.
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def failure(stream: Any) -> OSError | None:
    """Why nothing that is written to a settled stream arrives any more; None while it does."""
    stream.flush()
    return getattr(_raw(stream), "error", None)


def unread() -> bool:
    """Whether nobody reads standard output any more."""
    return failure(sys.stdout) is not None


def complaint() -> str | None:
    """What to say at the end of a run whose output was lost; a reader that left wanted no more."""
    error = failure(sys.stdout)
    if error is None or error.errno == errno.EPIPE:
        return None
    return f"standard output was cut short ({error.strerror}); give it room, or another place"
