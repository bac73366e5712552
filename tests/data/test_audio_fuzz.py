"""Ten thousand damaged files of sound: each is read, or refused in a sentence."""

import itertools

import numpy as np
import pytest
import soundfile

from moshijax.data.audio import Recording
from moshijax.system.errors import UserError
from tests.data.ffmpeg import make, noise


FORMATS = {
    "wav": ("-c:a", "pcm_s24le"),
    "f64.wav": ("-c:a", "pcm_f64le"),
    "adpcm.wav": ("-c:a", "adpcm_ms"),
    "w64": (),
    "aiff": (),
    "au": (),
    "caf": (),
    "flac": (),
    "ogg": (),
    "opus": (),
    "mp3": (),
    "m4a": (),
    "alac.m4a": ("-c:a", "alac"),
    "fragments.m4a": ("-movflags", "frag_keyframe+empty_moov"),
    "webm": ("-c:a", "libopus"),
    "aac": (),
    "ts": (),
    "wma": (),
    "wv": (),
    "avi": (),
}
CASES, PARTS = 10_000, 4
HEADER = 300  # bytes, in which a change matters most
ODD = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    sound = noise(800, 2)
    files = [
        make(folder / f"x.{name}", sound, 16000, *options) for name, options in FORMATS.items()
    ]
    soundfile.write(folder / "x.mat", sound, 16000, format="MAT5")
    contents = [path.read_bytes() for path in (*files, folder / "x.mat")]
    names = list(FORMATS)
    return [*contents, contents[names.index("ogg")] + contents[names.index("opus")]]


def damaged(content, rng):
    data = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        del data[rng.integers(len(data)) :]
    reach = max(1, len(data) if kind < 2 else min(len(data), HEADER))
    for at in rng.integers(reach, size=rng.integers(kind == 3, 8)):
        if rng.random() < 0.3:
            data[at : at + 4] = ODD[rng.integers(len(ODD))]
        else:
            data[at : at + 1] = bytes([rng.integers(256)])
    return bytes(data)


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_files_are_read_or_refused_in_a_sentence(bases, tmp_path, part):
    rng = np.random.default_rng(part)
    path, outcomes = tmp_path / "x", {"read": 0, "refused": 0}
    for base in itertools.islice(itertools.cycle(bases), CASES // PARTS):
        path.write_bytes(damaged(base, rng))
        try:
            for block in Recording(path, len).read_blocks(24000, 4000):
                assert np.isfinite(block).all()
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > CASES / PARTS / 10
