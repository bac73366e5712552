"""Recordings in blocks: any format, rate and number of channels to mono at one rate.

No more than a second of a file is held at a time, whatever its length.
"""

import dataclasses
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO

import numpy as np
import soxr
from absl import logging

from moshijax.data.decode import DecodeError, Frame, Header, Part, find_parts
from moshijax.data.joined import promised_size
from moshijax.system.errors import UserError


MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; beyond them a header is damaged rather than unusual
MAX_SECONDS = 1e9  # 30 years; a header that promises more is damaged
STDIN = "-"
COPIED = 1 << 20  # bytes of a pipe at a time
# A length that is not exact counts whole codec frames and the encoder's padding at both ends.
SLACK_SECONDS, SLACK_SHARE = 0.25, 0.02


class Recording:
    """A file of sound, or a pipe of one; `-` is the standard input.

    All sound is read that decodes, of every part of a joined file. Where that is not what a header
    promises, `warn` is told so in a sentence. A pipe is kept in a temporary file, since some
    formats say at their end what their beginning means.

    Raises:
        UserError: there is no such file, or no sound in it.
    """

    def __init__(self, path: str | os.PathLike[str], warn: Callable[[str], object] | None = None):
        self.name = "the standard input" if path == STDIN else str(path)
        self._warn = warn or logging.warning
        self._file = _open(path, self.name)
        weakref.finalize(self, self._file.close)
        self._parts = find_parts(self._file)
        self._headers = [self._read_header(part) for part in self._parts]
        promised, size = promised_size(self._file), os.fstat(self._file.fileno()).st_size
        if promised is not None and promised > size:
            self._warn(
                f"{self.name} is cut short: its header promises {promised} bytes, but it has "
                f"{size}, all of which are read"
            )
        # Checked before anything slow begins: there is sound, at a rate that is possible.
        first = next(self._frames(self._parts[0], 0.0), None)
        if first is None:
            raise UserError(self._nothing())
        self._check_rate(first.rate)
        lengths = [header.seconds for header in self._headers]
        known = [length for length in lengths if length is not None]
        self.seconds = sum(known) if len(known) == len(lengths) else None

    def read_blocks(self, sample_rate: int, block: int) -> Generator[np.ndarray]:
        """Reads mono audio at `sample_rate` in float32 blocks of `block`; the last may be less.

        Channels are averaged. The samples do not depend on the size of the blocks.
        """
        heard = _Heard()
        empty = True
        for samples in cut(_resample(self._seconds(heard), sample_rate), block):
            empty = False
            yield samples
        if empty:
            raise UserError(
                f"{self.name} has {heard.samples} samples, less than one at {sample_rate} Hz; "
                "give a longer file"
            )

    def _read_header(self, part: Part) -> Header:
        try:
            header = part.header()
        except DecodeError as error:
            raise UserError(
                f"{self.name} cannot be read as audio ({error}); convert it to wav or flac"
            ) from error
        if header.seconds is not None and header.seconds > MAX_SECONDS:
            raise UserError(
                f"{self.name} promises {header.seconds:.3g} s of sound in its header, which is "
                "damaged; fetch or convert it anew"
            )
        if header.others:
            self._warn(
                f"{self.name} has {header.others + 1} streams of sound, of which one is read; "
                "extract the one that you mean if it is another"
            )
        return header

    def _frames(self, part: Part, seconds: float) -> Iterator[Frame]:
        """Decodes a part that begins after so many seconds."""
        try:
            for frame in part.frames():
                yield frame
                seconds += len(frame.samples) / frame.rate
        except DecodeError as error:
            raise UserError(
                f"{self.name} is damaged after {seconds:.2f} s ({error}); fetch or convert it anew"
            ) from error

    def _seconds(self, heard: "_Heard") -> Iterator[tuple[int, np.ndarray]]:
        """Yields a rate and mono samples, a second at a time, and counts them."""
        for i, (part, header) in enumerate(zip(self._parts, self._headers, strict=True)):
            before = heard.seconds
            for rate, block in _gather(self._frames(part, before)):
                self._check_rate(rate)
                self._check_finite(block, rate, heard)
                heard.samples += len(block)
                heard.seconds += len(block) / rate
                yield rate, block[:, 0] if block.shape[1] == 1 else _average(block)
            which = f", part {i + 1} of {len(self._parts)}" if len(self._parts) > 1 else ""
            self._compare(self.name + which, header, heard.seconds - before, part.lost)

    def _compare(self, name: str, header: Header, seconds: float, lost: int) -> None:
        """Warns where the sound is not what the header promised."""
        if lost:
            self._warn(
                f"{name}: packets that are damaged or no sound are left out ({lost} of them)"
            )
        if header.seconds is None:
            return
        slack = 1e-9 * seconds if header.exact else SLACK_SECONDS + SLACK_SHARE * header.seconds
        if abs(header.seconds - seconds) > slack:
            self._warn(
                f"{name}: its {'header' if header.exact else 'header or bit rate'} promises "
                f"{header.seconds:.3f} s, but it has {seconds:.3f} s of sound, all of which is read"
            )

    def _nothing(self) -> str:
        lost = self._parts[0].lost
        if lost:
            return (
                f"{self.name} cannot be read as audio (none of its {lost} packets can be decoded); "
                "convert it to wav or flac"
            )
        return f"{self.name} has 0 samples; record or fetch it anew"

    def _check_rate(self, rate: int) -> None:
        if not MIN_RATE <= rate <= MAX_RATE:
            raise UserError(
                f"{self.name} has the sample rate {rate}; between {MIN_RATE} and {MAX_RATE} Hz "
                "can be read, so correct its header or convert it"
            )

    def _check_finite(self, block: np.ndarray, rate: int, heard: "_Heard") -> None:
        finite = np.isfinite(block)
        if finite.all():
            return
        sample, channel = np.argwhere(~finite)[0]
        raise UserError(
            f"{self.name} has the value {block[sample, channel]} at "
            f"{heard.seconds + sample / rate:.3f} s (sample {heard.samples + sample}, channel "
            f"{channel}); replace it by a finite number"
        )


def duration(path: str | os.PathLike[str]) -> float | None:
    """Returns the seconds that a file promises, or None."""
    return Recording(path).seconds


def read_blocks(
    path: str | os.PathLike[str], sample_rate: int, block: int
) -> Generator[np.ndarray]:
    """Reads a file as `Recording.read_blocks` does."""
    return Recording(path).read_blocks(sample_rate, block)


@dataclasses.dataclass
class _Heard:
    """How much was read."""

    samples: int = 0
    seconds: float = 0.0


def cut(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Cuts a stream anew, into pieces of `size` and a rest."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) - len(rest) % size
        for start in range(0, whole, size):
            yield rest[start : start + size]
        rest = rest[whole:]
    if len(rest):
        yield rest


def _open(path: str | os.PathLike[str], name: str) -> IO[bytes]:
    """Opens a file or a copy of a pipe."""
    try:
        # By its descriptor, since a socket has no name that could be opened.
        source = os.dup(0) if path == STDIN else path
        kind = os.stat(source).st_mode
        if stat.S_ISDIR(kind):
            raise UserError(f"{name} is a folder; name a file in it")
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
            raise UserError(f"{name} is a terminal or a device; give a file or a pipe of sound")
        # Unbuffered, since decoders move the position of the same descriptor.
        file = open(source, "rb", buffering=0)  # noqa: SIM115 - it lives with the recording.
        plain = stat.S_ISREG(kind) and (path != STDIN or file.tell() == 0)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{name}: there is no such audio file; check the path") from None
    except OSError as error:
        raise UserError(
            f"{name} cannot be opened ({error.strerror}); check the path and its permissions"
        ) from error
    if not plain:
        with file:
            file = _spool(file, name)
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise UserError(f"{name} is empty; record or fetch it anew")
    return file


def _spool(pipe: IO[bytes], name: str) -> IO[bytes]:
    """Copies a pipe to a file that is gone when it is closed, however the process ends."""
    try:
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(pipe, file, COPIED)
            file.flush()
            return open(os.dup(file.fileno()), "rb", buffering=0)
    except OSError as error:
        raise UserError(
            f"{name} cannot be kept in {tempfile.gettempdir()} while it is read "
            f"({error.strerror}); free some space there or set TMPDIR to another folder"
        ) from error


def _gather(frames: Iterator[Frame]) -> Iterator[tuple[int, np.ndarray]]:
    """Joins frames of one rate and number of channels to a second at a time."""
    held: list[np.ndarray] = []
    rate = count = 0
    for frame in frames:
        same = rate == frame.rate and held[:1] and held[0].shape[1] == frame.samples.shape[1]
        if held and not (same and count < rate):
            yield rate, np.concatenate(held)
            held, count = [], 0
        held.append(frame.samples)
        rate, count = frame.rate, count + len(frame.samples)
    if held:
        yield rate, np.concatenate(held)


def _average(block: np.ndarray) -> np.ndarray:
    # In float64, since the sum of two large finite samples may be infinite.
    return block.mean(axis=1, dtype=np.float64).astype(np.float32)


def _resample(blocks: Iterable[tuple[int, np.ndarray]], wanted: int) -> Iterator[np.ndarray]:
    """Brings every run of one rate to the rate that is wanted."""
    stream, last = None, wanted
    nothing = np.zeros(0, np.float32)
    for rate, block in blocks:
        if rate != last:
            if stream is not None:
                yield stream.resample_chunk(nothing, last=True)
            stream, last = None, rate
            if rate != wanted:
                stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
        yield block if stream is None else stream.resample_chunk(block)
    if stream is not None:
        yield stream.resample_chunk(nothing, last=True)
