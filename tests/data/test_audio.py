import os
import pathlib
import re
import struct
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from moshijax.data.audio import Recording
from moshijax.system.errors import UserError
from tests.data.ffmpeg import make


RATE = 24000


def tone(seconds, rate, channels=1, seed=0):
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal((len(t), channels)) * 0.05
    return (np.sin(2 * np.pi * 440 * t)[:, None] * 0.3 + noise).astype(np.float32)


def write(path, samples, rate, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def read(path, block=1000, rate=RATE):
    return np.concatenate(list(Recording(path).read_blocks(rate, block)))


def float_wav(path, samples, rate=RATE):
    return write(path, samples, rate, subtype="FLOAT")


@pytest.mark.parametrize("block", [1, 1920, 30720, 100_000])
def test_blocks_are_whole_but_the_last(tmp_path, block):
    samples = tone(0.2, RATE)[:, 0] if block == 1 else tone(2.3, RATE)[:, 0]
    path = float_wav(tmp_path / "x.wav", samples)
    blocks = list(Recording(path).read_blocks(RATE, block))
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


def peak(path):
    tracemalloc.start()
    for _ in Recording(path).read_blocks(RATE, 1920):
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
    r"{} cannot be read as audio": lambda p: (
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
    with pytest.raises(UserError, match=message.format(re.escape(str(path)))) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_audio_file(tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        Recording(tmp_path)


def test_a_pipe_is_read_as_a_file(tmp_path):
    path = write(tmp_path / "x.wav", tone(1.5, 16000), 16000)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[path.read_bytes()])
    writer.start()
    recording = Recording(tmp_path / "pipe")
    writer.join()
    for _ in range(2):
        got = np.concatenate(list(recording.read_blocks(RATE, 1000)))
        np.testing.assert_array_equal(got, read(path))


@pytest.mark.parametrize("how", ["pipe", "file", "rest of a file"])
def test_a_dash_is_the_standard_input(tmp_path, how):
    path = write(tmp_path / "x.wav", tone(0.5, RATE), RATE)
    code = """
import os, sys
from moshijax.data.audio import Recording
if sys.argv[1] == "rest of a file":
    os.read(0, 5)
print(sum(len(block) for block in Recording("-").read_blocks(24000, 1000)))
"""
    if how == "rest of a file":
        path.write_bytes(b"12345" + path.read_bytes())
    command = [sys.executable, "-c", code, how]
    root = pathlib.Path(__file__).parent.parent.parent
    with open(path, "rb") as file:
        given = {"input": path.read_bytes()} if how == "pipe" else {"stdin": file}
        result = subprocess.run(command, cwd=root, capture_output=True, check=True, **given)
    assert result.stdout == b"12000\n"


def test_devices_are_no_audio():
    with pytest.raises(UserError, match="/dev/zero is a terminal or a device"):
        Recording("/dev/zero")


def test_a_header_that_promises_the_impossible_is_refused(tmp_path):
    data = make(tmp_path / "x.mka", tone(0.1, RATE), RATE).read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # its Duration, in milliseconds
    (tmp_path / "x.mka").write_bytes(data[:at] + struct.pack(">d", 1e15) + data[at + 8 :])
    wav = write(tmp_path / "x.wav", tone(0.1, RATE), RATE).read_bytes()
    rate = wav[:24] + (10_000_000).to_bytes(4, "little") + wav[28:]
    channels = wav[:22] + b"\xff\xff" + wav[24:]
    (tmp_path / "rate.wav").write_bytes(rate)
    (tmp_path / "channels.wav").write_bytes(channels)
    for name, sentence in (
        ("x.mka", r"x\.mka promises 1e\+12 s of sound in its header, which is damaged"),
        ("rate.wav", "has the sample rate 10000000; between"),
        ("channels.wav", "cannot be read as audio|is damaged after 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(tmp_path / name)


def test_a_length_of_2_to_the_60_takes_no_memory_and_is_told(tmp_path):
    path = write(tmp_path / "x.w64", tone(0.1, RATE), RATE)
    data = bytearray(path.read_bytes())
    data[16:24] = (1 << 60).to_bytes(8, "little")
    at = data.index(b"data\xf3\xac\xd3\x11") + 16
    data[at : at + 8] = ((1 << 60) - 100).to_bytes(8, "little")
    path.write_bytes(data)
    warnings = []
    got = np.concatenate(list(Recording(path, warnings.append).read_blocks(RATE, 1000)))
    assert len(got) == 2400
    assert "x.w64 is cut short: its header promises 1152921504606846976 bytes" in warnings[0]
