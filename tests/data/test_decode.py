"""Sound as ffmpeg's own muxers write it, against ffmpeg's decoding of the whole file."""

import numpy as np
import pytest
import soundfile

from moshijax.data import joined
from moshijax.data.audio import Recording
from moshijax.data.decode import Part
from moshijax.data.joined import find_starts
from tests.data.ffmpeg import decode, make, noise, pipe, run


RATES = (8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000)
LENGTHS = (1, 2, 17, 500, 1152, 3000, 30000)
FORMATS = {
    "wav": (),
    "u8.wav": ("-c:a", "pcm_u8"),
    "s24.wav": ("-c:a", "pcm_s24le"),
    "s32.wav": ("-c:a", "pcm_s32le"),
    "f32.wav": ("-c:a", "pcm_f32le"),
    "f64.wav": ("-c:a", "pcm_f64le"),
    "alaw.wav": ("-c:a", "pcm_alaw"),
    "mulaw.wav": ("-c:a", "pcm_mulaw"),
    "rf64.wav": ("-rf64", "always"),
    "w64": (),
    "aiff": (),
    "au": (),
    "caf": (),
    "flac": (),
    "ogg": (),
    "opus": (),
    "flac.ogg": ("-c:a", "flac"),
    "mp3": (),
    "vbr.mp3": ("-q:a", "4"),
    "noxing.mp3": ("-q:a", "5", "-write_xing", "0"),
    "m4a": (),
    "alac.m4a": ("-c:a", "alac"),
    "fragments.m4a": ("-movflags", "frag_keyframe+empty_moov"),
    "webm": ("-c:a", "libopus"),
    "mka": (),
    "aac": (),
    "wma": (),
    "wv": (),
}
SPLIT = ("flac", "wav", "aiff", "m4a")  # of which ffmpeg reads less than all parts
EXACT = ("wav", "w64", "aiff", "au", "caf", "flac")


def read(path):
    """All samples at the file's own rate, and what was warned of."""
    warnings = []
    recording = Recording(path, warnings.append)
    rate = native_rate(path)
    return np.concatenate(list(recording.read_blocks(rate, 777))), warnings


def first_frame(path):
    with open(path, "rb") as file:
        return next(Part(file).frames())


def native_rate(path):
    return first_frame(path).rate


@pytest.mark.parametrize("name", FORMATS)
def test_all_samples_are_those_of_a_whole_decoding(tmp_path, name):
    rng = np.random.default_rng(list(FORMATS).index(name))
    for length in rng.choice(LENGTHS[3:], 2):
        rate, channels = int(rng.choice(RATES)), int(rng.choice([1, 2, 6, 8]))
        if name == "wma":
            length, rate, channels = 30000, 44100, min(channels, 2)
        sound = noise(length + rng.integers(3), channels)
        path = make(tmp_path / f"x.{name}", sound, rate, *FORMATS[name])
        want = decode(path, first_frame(path).samples.shape[1])
        got, warnings = read(path)
        np.testing.assert_allclose(got, want, atol=1e-6)
        assert not warnings
        if path.suffix[1:] in EXACT:
            assert len(got) == len(sound)


@pytest.mark.parametrize("name", [*EXACT, "m4a", "ogg", "vbr.mp3"])
def test_the_shortest_files_are_read(tmp_path, name):
    least = {"flac": 17, "vbr.mp3": 1200}.get(name, 1)
    path = make(tmp_path / f"x.{name}", noise(least, 2), 16000, *FORMATS[name])
    got, _ = read(path)
    np.testing.assert_allclose(got, decode(path, 2), atol=1e-6)
    assert len(got) > 0


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *(("wav", ()), ("w64", ()), ("au", ()), ("caf", ()), ("aiff", ()), ("flac", ())),
        *(("ogg", ()), ("mp3", ()), ("webm", ("-c:a", "libopus")), ("adts", ())),
        ("mp4", ("-movflags", "frag_keyframe+empty_moov")),
    ],
)
def test_files_that_were_written_to_a_pipe_are_read_whole(tmp_path, form, options):
    sound = noise(9000, 2)
    path = pipe(tmp_path / "x", sound, 48000, form, *options)
    got, warnings = read(path)
    assert not warnings
    assert len(sound) <= len(got) <= len(sound) + 4000
    lossless = form in (*EXACT, "aiff")
    if lossless:
        np.testing.assert_allclose(got, sound.mean(axis=1), atol=2 / 32768)
    else:
        np.testing.assert_allclose(got, decode(path, 2), atol=1e-6)


def test_all_parts_of_a_joined_file_are_read(tmp_path):
    sound = noise(20000, 2)
    for name, options in (("ogg", ()), ("opus", ()), ("flac.ogg", ("-c:a", "flac"))):
        one = make(tmp_path / f"one.{name}", sound, 48000, *options)
        both = tmp_path / f"both.{name}"
        both.write_bytes(one.read_bytes() * 2)
        got, warnings = read(both)
        np.testing.assert_array_equal(got, np.tile(read(one)[0], 2))
        assert not warnings
    for name in (*SPLIT, "mp3", "vbr.mp3", "aac"):
        one = make(tmp_path / f"one.{name}", sound, 48000, *FORMATS[name])
        other = make(tmp_path / f"other.{name}", sound[:9000], 48000, *FORMATS[name])
        both = tmp_path / f"both.{name}"
        both.write_bytes(one.read_bytes() + other.read_bytes())
        got, _ = read(both)
        want = [read(path)[0] for path in (one, other)] if name in SPLIT else [decode(both, 2)]
        np.testing.assert_allclose(got, np.concatenate(want), atol=1e-6)
        assert len(got) >= 29000


def test_parts_of_a_chain_may_have_other_rates_channels_and_codecs(tmp_path):
    parts = [
        make(tmp_path / "a.ogg", noise(24000, 2), 48000),
        make(tmp_path / "b.ogg", noise(12000, 1), 16000),
        make(tmp_path / "c.opus", noise(12000, 2), 24000),
    ]
    both = tmp_path / "x.ogg"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    recording = Recording(both)
    got = np.concatenate(list(recording.read_blocks(24000, 1000)))
    want = [np.concatenate(list(Recording(p).read_blocks(24000, 999))) for p in parts]
    np.testing.assert_array_equal(got, np.concatenate(want))
    assert recording.seconds == pytest.approx(0.5 + 0.75 + 0.5, abs=0.02)


def test_links_are_found_where_reads_of_a_file_meet(tmp_path, monkeypatch):
    path = tmp_path / "x.ogg"
    path.write_bytes(make(tmp_path / "a.ogg", noise(3000, 1), 48000).read_bytes() * 3)
    with open(path, "rb") as file:
        want = find_starts(file)
        assert len(want) == 3
        for size in (1, 5, 6, 100, 101, 102, 103):
            monkeypatch.setattr(joined, "CHUNK", size)
            assert find_starts(file) == want


def test_an_mp3_in_blocks_is_that_of_the_whole(tmp_path):
    sound = noise(6 * 44100, 1)
    path = tmp_path / "x.mp3"
    soundfile.write(path, sound, 44100, bitrate_mode="VARIABLE", compression_level=0.4)
    whole, _ = soundfile.read(path, dtype="float32")
    got, warnings = read(path)
    np.testing.assert_allclose(got, whole, atol=1e-5)
    assert not warnings


def without_length(path, form):
    """A file as a streaming writer leaves it: with no length, or none but the first frame's."""
    soundfile.write(path, noise(2 * 44100, 1), 44100, format=form)
    data = bytearray(path.read_bytes())
    if form == "FLAC":
        data[8 + 13] &= 0xF0  # the upper 4 of the 36 bits of the number of samples
        data[8 + 14 : 8 + 18] = bytes(4)
    else:
        at = data.index(b"data")
        data[at + 4 : at + 8] = data[4:8] = bytes(4)
    path.write_bytes(data)


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_no_length_in_a_header_is_no_fault(tmp_path, form):
    without_length(tmp_path / "x", form)
    got, warnings = read(tmp_path / "x")
    assert len(got) == 2 * 44100
    assert not warnings


def test_a_wrong_length_in_a_header_is_told_and_all_sound_is_read(tmp_path):
    path = make(tmp_path / "x.flac", noise(20000, 1), 48000)
    data = bytearray(path.read_bytes())
    data[8 + 14 : 8 + 18] = (5000).to_bytes(4)
    path.write_bytes(data)
    got, (warning,) = read(path)
    assert len(got) == 20000
    assert warning == (
        f"{path}: its header promises 0.104 s, but it has 0.417 s of sound, all of which is read"
    )
    path = make(tmp_path / "x.wav", noise(20000, 1), 48000)
    path.write_bytes(path.read_bytes()[:-20000])
    got, (warning,) = read(path)
    assert len(got) == 10000
    assert "x.wav is cut short: its header promises 40078 bytes, but it has 20078" in warning


def test_the_sound_of_a_video_is_read_and_pictures_alone_are_refused(tmp_path):
    sound = make(tmp_path / "x.wav", noise(24000, 1), 48000)
    picture = ("-f", "lavfi", "-i", "color=red:s=32x32:r=5:d=0.5")
    for name, options in (
        ("x.mp4", ("-c:v", "mpeg4")),
        ("x.webm", ("-c:v", "vp8", "-c:a", "libopus")),
        ("x.mp3", ("-c:v", "png", "-frames:v", "1", "-disposition:v", "attached_pic")),
        ("x.m4a", ("-c:v", "png", "-frames:v", "1", "-disposition:v", "attached_pic")),
    ):
        run(*picture, "-i", sound, "-map", "0:v", "-map", "1:a", *options, tmp_path / name)
        got, warnings = read(tmp_path / name)
        np.testing.assert_allclose(got, decode(tmp_path / name, 1), atol=1e-6)
        assert not warnings
    run(*picture, "-c:v", "mpeg4", tmp_path / "mute.mp4")
    with pytest.raises(ValueError, match=r"mute\.mp4 cannot be read as audio \(it has pictures"):
        Recording(tmp_path / "mute.mp4")


def test_one_of_several_streams_is_read_and_told(tmp_path):
    path = make(tmp_path / "x.mka", noise(9000, 1), 48000, "-map", "0:a", "-map", "0:a")
    _, (warning,) = read(path)
    assert warning.startswith(f"{path} has 2 streams of sound, of which one is read")


def test_a_name_says_nothing_of_the_content(tmp_path):
    sound = noise(9000, 1)
    for name in ("x.WAV", "x.Mp3", "x", "x.txt", "concat:x|y", "x%03d.flac", "http:", "a,b;c.mp3"):
        path = tmp_path / name
        soundfile.write(tmp_path / "x.wav", sound, 16000)
        (tmp_path / "x.wav").rename(path)
        assert len(read(path)[0]) == 9000


def test_a_playlist_leads_nowhere(tmp_path):
    make(tmp_path / "x.ts", noise(9000, 1), 48000)
    lists = ("#EXTM3U\n#EXTINF:1,\nx.ts\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile x.ts\n")
    for text in lists:
        (tmp_path / "list.m3u8").write_text(text)
        with pytest.raises(ValueError, match="cannot be read as audio"):
            Recording(tmp_path / "list.m3u8")


def test_what_only_libsndfile_knows_is_read_too(tmp_path):
    sound = noise(9000, 2)
    for form in ("MAT5", "AVR", "PAF"):
        soundfile.write(tmp_path / "x", sound, 16000, format=form)
        got, warnings = read(tmp_path / "x")
        assert len(got) == 9000
        assert not warnings
