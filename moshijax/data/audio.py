"""Audio files in blocks: any format, rate and number of channels to mono at one rate, and back.

No more than a second of a file is held at a time, whatever its length.
"""

import os
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import soundfile
import soxr

from moshijax.files import replacing


MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; beyond them a header is damaged rather than unusual
UNKNOWN = 1 << 62  # samples; what libsndfile says of a stream without a length is more


def duration(path: str | os.PathLike[str]) -> float:
    """Returns the seconds of a file by its header; raises if it holds no audio."""
    with _open(path) as file:
        return file.frames / file.samplerate


def read_blocks(
    path: str | os.PathLike[str], sample_rate: int, block: int
) -> Generator[np.ndarray]:
    """Reads mono audio at `sample_rate` in float32 blocks of `block` samples; the last may be less.

    Channels are averaged. The samples do not depend on the size of the blocks.
    """
    with _open(path) as file:
        seconds = _read_seconds(file, path)
        empty = True
        for samples in cut(_resample(seconds, file.samplerate, sample_rate), block):
            empty = False
            yield samples
        if empty:
            raise ValueError(
                f"{path} has {file.frames} samples, less than one at {sample_rate} Hz; give a "
                "longer file"
            )


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


def check_output(path: str | os.PathLike[str]) -> str:
    """Returns the format that a file name asks for; raises if it cannot be written there."""
    path = pathlib.Path(path)
    kind = path.suffix[1:].upper()
    if kind == "RAW" or kind not in soundfile.available_formats():
        raise ValueError(
            f"{path} ends in {path.suffix!r}, which is no audio format that can be written; "
            "name it .wav, .flac, .ogg or .mp3"
        )
    check_folder(path)
    return kind


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raises if there is no folder for a file, or the file is one itself."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")


@contextmanager
def writing(
    path: str | os.PathLike[str], sample_rate: int, channels: int = 1
) -> Generator[Callable[[np.ndarray], None]]:
    """Yields a function that appends samples to a file, which appears when all went well.

    With several channels it takes arrays [samples, channels].
    """
    kind = check_output(path)

    def write(samples: np.ndarray) -> None:
        if not np.isfinite(samples).all():
            raise ValueError(
                f"{path} would hold NaN or infinite samples: the model's weights are damaged or "
                "do not suit the codes; fetch them anew"
            )
        file.write(samples)

    try:
        with (
            replacing(path) as raw,
            # By its number: an interrupt while soundfile calls back into Python would be lost.
            soundfile.SoundFile(
                raw.fileno(), "w", sample_rate, channels, format=kind, closefd=False
            ) as file,
        ):
            yield write
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path} cannot be written as {kind} at {sample_rate} Hz ({error.error_string}); "
            "name it .wav"
        ) from error


def _open(path: str | os.PathLike[str]) -> soundfile.SoundFile:
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such audio file; check the path")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; record or fetch it anew")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:
        # A TypeError is soundfile's word for samples without a header.
        why = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise ValueError(
            f"{path} cannot be read as audio ({str(why).rstrip('.')}); convert it to wav or flac"
        ) from error
    try:
        _check_header(file, path)
    except ValueError:
        file.close()
        raise
    return file


def _check_header(file: soundfile.SoundFile, path: pathlib.Path) -> None:
    if not file.frames:
        raise ValueError(f"{path} has 0 samples; record or fetch it anew")
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise ValueError(
            f"{path} has the sample rate {file.samplerate}; between {MIN_RATE} and {MAX_RATE} Hz "
            "can be read, so correct its header or convert it"
        )


def _read_seconds(file: soundfile.SoundFile, path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Reads a second at a time and averages the channels."""
    position = 0
    while True:
        try:
            block = file.read(file.samplerate, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{path} is damaged after {position / file.samplerate:.2f} s "
                f"({error.error_string.rstrip('.')}); fetch or convert it anew"
            ) from error
        if not len(block):
            break
        _check_finite(block, position, file.samplerate, path)
        position += len(block)
        # In float64, since the sum of two large finite samples may be infinite.
        yield block[:, 0] if block.shape[1] == 1 else _average(block)
    if position < file.frames < UNKNOWN:
        raise ValueError(
            f"{path} is cut short: it has {position} of the {file.frames} samples that its header "
            "says; fetch it anew"
        )


def _average(block: np.ndarray) -> np.ndarray:
    return block.mean(axis=1, dtype=np.float64).astype(np.float32)


def _check_finite(
    block: np.ndarray, position: int, rate: int, path: str | os.PathLike[str]
) -> None:
    finite = np.isfinite(block)
    if finite.all():
        return
    sample, channel = np.argwhere(~finite)[0]
    raise ValueError(
        f"{path} has the value {block[sample, channel]} at {(position + sample) / rate:.3f} s "
        f"(sample {position + sample}, channel {channel}); replace it by a finite number"
    )


def _resample(blocks: Iterable[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    if rate == wanted:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
