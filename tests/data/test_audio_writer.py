import resource
import signal

import numpy as np
import pytest
import soundfile

from moshijax.data import audio_writer
from moshijax.data.audio import Recording
from moshijax.data.audio_writer import check_output, writing
from moshijax.system.errors import UserError


RATE = 24000
rng = np.random.default_rng(0)


def tone(seconds):
    t = np.arange(int(seconds * RATE)) / RATE
    noise = rng.standard_normal(len(t)) * 0.05
    return (np.sin(2 * np.pi * 440 * t) * 0.3 + noise).astype(np.float32)


def read(path):
    return np.concatenate(list(Recording(path).read_blocks(RATE, 1000)))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64"])
def test_formats_are_written_and_read(tmp_path, suffix):
    samples = tone(2.0)
    path = tmp_path / f"x.{suffix}"
    with writing(path, RATE) as append:
        for start in range(0, len(samples), 7000):
            append(samples[start : start + 7000])
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    got = read(path)
    assert Recording(path).seconds == pytest.approx(2.0, abs=0.1)
    assert len(got) == pytest.approx(len(samples), abs=2400)
    lossy = suffix in ("ogg", "mp3")
    error = np.abs(got[: len(samples)] - samples[: len(got)]).mean()
    assert error < (0.05 if lossy else 1e-4)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(0.1), RATE)
    before = path.read_bytes()

    def interrupted(samples):
        with writing(path, RATE) as append:
            append(samples)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(np.zeros(100, np.float32))
    with pytest.raises(UserError, match=r"x\.wav would hold NaN or infinite"):
        interrupted(np.full(3, np.nan, np.float32))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    assert check_output(tmp_path / "x.flac") == "FLAC"
    with pytest.raises(UserError, match=r"x\.xyz ends in '\.xyz', which is no audio format"):
        check_output(tmp_path / "x.xyz")
    with pytest.raises(UserError, match=r"there is no folder .*none; make it first"):
        check_output(tmp_path / "none" / "x.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(UserError, match=r"folder\.wav is a folder; give the name of a file"):
        check_output(tmp_path / "folder.wav")
    with (
        pytest.raises(UserError, match=r"x\.mp3 cannot be written as MP3 at 23999 Hz"),
        writing(tmp_path / "x.mp3", 23999),
    ):
        pass


@pytest.mark.parametrize(
    ("suffix", "room"),
    [
        *(("wav", 3000), ("flac", 3000), ("mp3", 3000), ("aiff", 3000), ("caf", 3000)),
        *(("ogg", 3000), ("ogg", 9000)),  # Of the last pages libsndfile does not say it.
    ],
)
def test_a_full_disk_is_no_success(tmp_path, suffix, room):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sound = rng.standard_normal(RATE).astype(np.float32) * 0.3
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with pytest.raises(UserError, match=rf"x\.{suffix} cannot be written: .*the disk of"):
            write(tmp_path / f"x.{suffix}", sound)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def write(path, sound):
    with writing(path, RATE) as append:
        for block in np.split(sound, 10):
            append(block)


def test_a_wav_is_ready_to_count_beyond_4_gib(tmp_path):
    write(tmp_path / "x.wav", tone(0.5))
    data = (tmp_path / "x.wav").read_bytes()
    assert data[:4] == b"RIFF"
    assert data[12:16] == b"JUNK"  # Where an RF64 has its 64-bit counts.
    assert soundfile.info(tmp_path / "x.wav").subtype == "PCM_16"


def test_what_cannot_count_beyond_4_gib_is_ended_there(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_writer, "LIMIT", 40000)
    with pytest.raises(UserError, match=r"x\.aiff: AIFF holds no more than 4 GiB; name it \.wav"):
        write(tmp_path / "x.aiff", tone(0.5))
    for suffix in ("wav", "flac", "ogg", "w64"):
        write(tmp_path / f"x.{suffix}", tone(0.5))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_write_is_not_lost(tmp_path, monkeypatch, number):
    class Asked(BaseException):
        pass

    def ask(*_):
        raise Asked

    before, write_data = signal.signal(number, ask), audio_writer._Sink.write

    def signalled(sink, data):
        signal.raise_signal(number)
        return write_data(sink, data)

    monkeypatch.setattr(audio_writer._Sink, "write", signalled)
    try:
        with pytest.raises(Asked):
            write(tmp_path / "x.wav", tone(0.5))
    finally:
        signal.signal(number, before)
    assert list(tmp_path.iterdir()) == []
