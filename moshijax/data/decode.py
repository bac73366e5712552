"""Decoding of audio, a frame at a time: what a file holds, whatever its header says of it.

FFmpeg decodes; libsndfile reads the files of samples that FFmpeg knows nothing of.
"""

import contextlib
import ctypes
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import IO, NamedTuple

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from jaxtyping import Float

from moshijax.data.joined import find_starts


# Containers of sound. Others, such as playlists, could lead to other files and to the network.
CONTAINERS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "eac3", "flac", "flv"),
    *("iff", "ircam", "loas", "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts"),
    *("nistsphere", "ogg", "pvf", "sds", "shn", "sox", "tak", "tta", "voc", "w64", "wav", "wv"),
    "xwma",
)
OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file,subfile"}
LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta", "ape", "tak", "shorten", "mlp", "truehd")
# Of these a length is only estimated from the bit rate.
NO_LENGTH = ("aac", "ac3", "amr", "eac3", "loas", "mpeg", "mpegts")
EXACT = ("aiff", "au", "caf", "flac", "w64", "wav")  # these count samples
UNKNOWN = 1 << 62  # samples; what libsndfile says of a stream without a length is more
MOST_PLANES = 8
SECOND = 48_000  # samples that libsndfile reads at a time

Samples = Float[np.ndarray, "samples C"]


class DecodeError(Exception):
    """A file is no audio, or damaged; the message says how."""


class Frame(NamedTuple):
    """Samples that were decoded at once."""

    rate: int
    samples: Samples


class Header(NamedTuple):
    """What a part of a file says of itself."""

    seconds: float | None  # None: it does not say
    exact: bool  # whether it says so to the sample
    others: int  # audio streams beside the one that is read


class Part:
    """A stretch of a file that is decoded by itself: all of it, or one of a joined file."""

    def __init__(self, file: IO[bytes], stretch: tuple[int, int] | None = None):
        self._file = file
        # By its descriptor: FFmpeg would take the beginning of some names for a protocol.
        self._url = f"file:/dev/fd/{file.fileno()}"
        if stretch is not None:
            self._url = f"subfile,,start,{stretch[0]},end,{stretch[1]},,:{self._url}"
        self.lost = 0  # packets that could not be decoded

    def header(self) -> Header:
        """Reads what the part says of itself.

        Raises:
            DecodeError: it holds no audio.
        """
        try:
            with self._open() as container:
                stream = _pick(container)
                return _header(container, stream)
        except av.FFmpegError as error:
            with self._open_sndfile(error) as file:
                known = file.frames < UNKNOWN
                return Header(file.frames / file.samplerate if known else None, known, 0)

    def frames(self) -> Iterator[Frame]:
        """Decodes all that is there.

        Raises:
            DecodeError: it holds no audio, or is of a lossless codec and damaged.
        """
        try:
            container = self._open()
            stream = _pick(container)
        except av.FFmpegError as error:
            yield from self._sndfile_frames(error)
            return
        with container:
            try:
                yield from self._decode(container, stream)
            except (av.FFmpegError, ValueError) as error:
                raise DecodeError(_reason(error)) from error

    def _rewound(self) -> int:
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        return self._file.fileno()

    def _open(self) -> InputContainer:
        self._rewound()  # On some systems opening /dev/fd/N duplicates N, and shares its position.
        return av.open(self._url, options=dict(OPTIONS), metadata_errors="replace")

    def _decode(self, container: InputContainer, stream: AudioStream) -> Iterator[Frame]:
        strict = stream.codec_context.name.startswith(LOSSLESS)
        if strict:
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        # The edit list of an MP4 may end within a frame: the last packet's duration alone says so.
        cuts = "mov" in container.format.name and stream.frames > 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                # Skipped, as players do: between the parts of joined MP3s there are tags.
                if strict:
                    raise
                self.lost += 1
                continue
            for frame in frames:
                _keep_layout(frame)
            for frame in (frame for frame in frames if frame.samples):
                samples = _samples(frame)
                if cuts and packet.duration and packet.time_base == Fraction(1, frame.sample_rate):
                    samples = samples[: packet.duration]
                yield Frame(frame.sample_rate, samples)

    @contextlib.contextmanager
    def _open_sndfile(self, error: av.FFmpegError) -> Generator[soundfile.SoundFile]:
        """Opens a file that FFmpeg refused with an error."""
        head = os.pread(self._file.fileno(), 3, 0)
        # Ogg and MP3: libsndfile believes their lengths, and does not see all joined parts.
        if head == b"Ogg" or head == b"ID3" or head[:1] == b"\xff":
            raise DecodeError(_reason(error)) from error
        try:
            file = soundfile.SoundFile(self._rewound(), closefd=False)
        except soundfile.LibsndfileError:
            raise DecodeError(_reason(error)) from error
        with file:
            yield file

    def _sndfile_frames(self, error: av.FFmpegError) -> Iterator[Frame]:
        with self._open_sndfile(error) as file:
            while True:
                try:
                    samples = file.read(SECOND, dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as damage:
                    raise DecodeError(damage.error_string.rstrip(".")) from damage
                if not len(samples):
                    return
                yield Frame(file.samplerate, samples)


def find_parts(file: IO[bytes]) -> list[Part]:
    """Returns the parts of a file, one after the other."""
    starts = find_starts(file)
    if len(starts) < 2:
        return [Part(file)]
    size = file.seek(0, os.SEEK_END)
    return [Part(file, stretch) for stretch in zip(starts, [*starts[1:], size], strict=True)]


def _pick(container: InputContainer) -> AudioStream:
    stream = container.streams.best("audio")
    if stream is None and len(container.streams):
        raise DecodeError("it has pictures but no sound")
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        raise av.InvalidDataError(0, "no stream of sound that could be decoded")
    return stream


def _header(container: InputContainer, stream: AudioStream) -> Header:
    form, codec = container.format.name, stream.codec_context
    others = len(container.streams.audio) - 1
    if form in NO_LENGTH:
        return Header(None, False, others)
    if stream.duration is None or stream.time_base is None:
        seconds = container.duration / av.time_base if container.duration else None
        return Header(seconds, False, others)
    counts = form in EXACT and codec.name.startswith(("pcm_", "flac"))
    exact = counts and stream.time_base == Fraction(1, codec.sample_rate or 1)
    return Header(float(stream.duration * stream.time_base) or None, exact, others)


def _keep_layout(frame: AudioFrame) -> None:
    """Leaks the channel layout of a frame, on purpose, where it may have a custom order.

    PyAV would free the memory of such an order twice, with the layout and with the frame.
    """
    if frame.layout.nb_channels > 2 or "(" in frame.layout.name:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))


def _samples(frame: AudioFrame) -> Samples:
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    if planar and channels >= MOST_PLANES:
        # PyAV counts planes up to a null pointer, for which a frame of 8 planes has no room.
        frame, planar = av.AudioResampler("flt").resample(frame)[0], False
        _keep_layout(frame)
    data = frame.to_ndarray()
    samples = data.T if planar else data.reshape(-1, channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is refused.
        return samples.astype(np.float32, copy=False)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")
