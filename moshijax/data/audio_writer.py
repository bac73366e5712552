"""Audio files that are written as the samples come."""

import os
import pathlib
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import IO, BinaryIO, cast

import numpy as np
import soundfile

from moshijax.system import files
from moshijax.system.errors import UserError
from moshijax.system.files import replacing


LIMIT = (1 << 32) - (1 << 20)  # bytes of samples in a file whose header counts them in 32 bits
LIMITLESS = ("CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RF64_AUTO_DOWNGRADE = 0x1210  # of libsndfile's sf_command


def check_output(path: str | os.PathLike[str]) -> str:
    """Returns the format that a file name asks for; raises if it cannot be written there."""
    path = pathlib.Path(path)
    kind = path.suffix[1:].upper()
    if kind == "RAW" or kind not in soundfile.available_formats():
        raise UserError(
            f"{path} ends in {path.suffix!r}, which is no audio format that can be written; "
            "name it .wav, .flac, .ogg or .mp3"
        )
    files.check_output(path)
    return kind


@contextmanager
def writing(
    path: str | os.PathLike[str], sample_rate: int, channels: int = 1
) -> Generator[Callable[[np.ndarray], None]]:
    """Yields a function that appends samples to a file, which appears when all went well.

    With several channels it takes arrays [samples, channels]. A WAV of more than 4 GiB becomes an
    RF64, which is a WAV with longer counts.
    """
    kind = check_output(path)
    written = 0

    def write(samples: np.ndarray) -> None:
        nonlocal written
        if not np.isfinite(samples).all():
            raise UserError(
                f"{path} would hold NaN or infinite samples: the model's weights are damaged or "
                "do not suit the codes; fetch them anew"
            )
        written += 4 * samples.size
        if written > LIMIT and kind not in LIMITLESS:
            raise UserError(f"{path}: {kind} holds no more than 4 GiB; name it .wav or .flac")
        assert file is not None, "it is open while samples can be appended"
        with sink.guarded():
            file.write(samples)

    with replacing(path) as raw:
        sink = _Sink(raw)
        file: soundfile.SoundFile | None = None
        try:
            try:
                with sink.guarded():
                    file = _open(sink, kind, sample_rate, channels)
                yield write
            finally:
                if file is not None:
                    with sink.guarded():
                        file.close()
        except soundfile.LibsndfileError as error:
            raise UserError(
                f"{path} cannot be written as {kind} at {sample_rate} Hz "
                f"({error.error_string.rstrip('.')}); name it .wav"
            ) from error


def _open(sink: "_Sink", kind: str, rate: int, channels: int) -> soundfile.SoundFile:
    form = "RF64" if kind == "WAV" else kind
    file = soundfile.SoundFile(cast(BinaryIO, sink), "w", rate, channels, format=form)
    if kind == "WAV":
        # An RF64 of less than 4 GiB is closed as a WAV.
        soundfile._snd.sf_command(file._file, RF64_AUTO_DOWNGRADE, soundfile._ffi.NULL, 1)
    return file


class _Sink:
    """The file that libsndfile writes to: it keeps the error that libsndfile would not report."""

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._raw.write(data)
        except OSError as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._raw.seek(offset, whence)
        except OSError as error:  # What is buffered is written first.
            self._error = error
            return -1

    def tell(self) -> int:
        return self._raw.tell()

    def read(self, size: int = -1) -> bytes:
        return b""

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Once C has returned, raises what came meanwhile: a write's error, an interrupt."""
        try:
            with _held_back():
                yield
        finally:
            if self._error is not None:
                raise self._error


@contextmanager
def _held_back() -> Generator[None]:
    """Keeps signals for later: what a handler raises where C calls back into Python is lost."""
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in HELD if main}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    came: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda *call: came.append(call))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in came:
        handlers[signal.Signals(number)](number, frame)
