import re
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from moshijax.data.audio import check_output, duration, read_blocks, writing


RATE = 24000


def tone(seconds, rate, channels=1, seed=0):
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal((len(t), channels)) * 0.05
    return (np.sin(2 * np.pi * 440 * t)[:, None] * 0.3 + noise).astype(np.float32)


def write(path, samples, rate, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def read(path, block=1000, rate=RATE):
    return np.concatenate(list(read_blocks(path, rate, block)))


def float_wav(path, samples, rate=RATE):
    return write(path, samples, rate, subtype="FLOAT")


@pytest.mark.parametrize("block", [1, 1920, 30720, 100_000])
def test_blocks_are_whole_but_the_last(tmp_path, block):
    samples = tone(0.2, RATE)[:, 0] if block == 1 else tone(2.3, RATE)[:, 0]
    path = float_wav(tmp_path / "x.wav", samples)
    blocks = list(read_blocks(path, RATE, block))
    assert [len(b) for b in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= block
    np.testing.assert_array_equal(np.concatenate(blocks), samples)
    assert blocks[0].dtype == np.float32


def test_channels_are_averaged(tmp_path):
    samples = tone(1.2, RATE, channels=3)
    samples[:, 1] = 0.5
    got = read(float_wav(tmp_path / "x.wav", samples))
    np.testing.assert_allclose(got, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
def test_resampling_in_blocks_is_that_of_the_whole(tmp_path, rate):
    samples = tone(2.5, rate)[:, 0]
    got = read(float_wav(tmp_path / "x.wav", samples, rate))
    np.testing.assert_array_equal(got, soxr.resample(samples, rate, RATE, quality="HQ"))
    assert abs(len(got) - 2.5 * RATE) <= 1


def test_resampled_tone_keeps_its_pitch_and_place(tmp_path):
    t = np.arange(44100) / 44100
    got = read(float_wav(tmp_path / "x.wav", np.sin(2 * np.pi * 440 * t), 44100))
    want = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(got[500:-500], want[500:-500], atol=1e-3)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64"])
def test_formats_are_written_and_read(tmp_path, suffix):
    samples = tone(2.0, RATE)[:, 0]
    path = tmp_path / f"x.{suffix}"
    with writing(path, RATE) as append:
        for start in range(0, len(samples), 7000):
            append(samples[start : start + 7000])
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    got = read(path)
    assert duration(path) == pytest.approx(2.0, abs=0.1)
    assert len(got) == pytest.approx(len(samples), abs=2400)
    lossy = suffix in ("ogg", "mp3")
    error = np.abs(got[: len(samples)] - samples[: len(got)]).mean()
    assert error < (0.05 if lossy else 1e-4)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = float_wav(tmp_path / "x.wav", tone(0.1, RATE))
    before = path.read_bytes()

    def interrupted(samples):
        with writing(path, RATE) as append:
            append(samples)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(np.zeros(100, np.float32))
    with pytest.raises(ValueError, match=r"x\.wav would hold NaN or infinite"):
        interrupted(np.full(3, np.nan, np.float32))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def peak(path):
    tracemalloc.start()
    for _ in read_blocks(path, RATE, 1920):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_length(tmp_path):
    short = write(tmp_path / "short.wav", tone(4, 16000, 2), 16000)
    long = write(tmp_path / "long.wav", tone(60, 16000, 2), 16000)
    peak(short)
    assert peak(long) < 1.2 * peak(short) < 3e6


SAMPLES = tone(1.5, RATE, channels=2)


def not_finite(value):
    samples = SAMPLES.copy()
    samples[30000, 1] = value
    return samples


def cut(path, suffix, keep):
    whole = write(path.with_suffix(suffix), SAMPLES, RATE)
    whole.write_bytes(whole.read_bytes()[: int(keep * whole.stat().st_size)])
    return whole


BAD = {
    r"{}: there is no such audio file; check the path": lambda p: p,
    r"{} is empty; record or fetch it anew": lambda p: (p.touch(), p)[1],
    r"{} cannot be read as audio \(.*\); convert it": lambda p: p.write_text("hi" * 99) and p,
    r"{} cannot be read as audio \(samplerate": lambda p: (
        p.with_suffix(".raw").write_bytes(bytes(8)) and p.with_suffix(".raw")
    ),
    r"{} has 0 samples; record": lambda p: float_wav(p, np.zeros((0, 2))),
    r"{} has the value nan at 1\.250 s \(sample 30000, channel 1\); replace": lambda p: float_wav(
        p, not_finite(np.nan)
    ),
    r"{} has the value -inf at 1\.250 s": lambda p: float_wav(p, not_finite(-np.inf)),
    r"{} has the sample rate 10; between 1000 and": lambda p: float_wav(p, SAMPLES, 10),
    r"{} has 1 samples, less than one at 24000 Hz": lambda p: float_wav(p, SAMPLES[:1], 96000),
    r"{} is (cut short|damaged)": lambda p: cut(p, ".flac", 0.6),
    r"{} (is|cannot be read)": lambda p: cut(p, ".flac", 0.01),
}


@pytest.mark.parametrize("message", BAD)
def test_unfit_files_are_refused_in_one_sentence(tmp_path, message):
    path = BAD[message](tmp_path / "bad.wav")
    with pytest.raises(ValueError, match=message.format(re.escape(str(path)))) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_audio_file(tmp_path):
    with pytest.raises(ValueError, match="there is no such audio file"):
        duration(tmp_path)


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    assert check_output(tmp_path / "x.flac") == "FLAC"
    with pytest.raises(ValueError, match=r"x\.xyz ends in '\.xyz', which is no audio format"):
        check_output(tmp_path / "x.xyz")
    with pytest.raises(ValueError, match=r"there is no folder .*none; make it first"):
        check_output(tmp_path / "none" / "x.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ValueError, match=r"folder\.wav is a folder; give the name of a file"):
        check_output(tmp_path / "folder.wav")
    with (
        pytest.raises(ValueError, match=r"x\.mp3 cannot be written as MP3 at 23999 Hz"),
        writing(tmp_path / "x.mp3", 23999),
    ):
        pass
