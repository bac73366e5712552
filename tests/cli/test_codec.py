import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from moshijax.cli.codec import main
from moshijax.codec.config import PRESETS
from moshijax.codec.mimi import for_inference, pad_to_frames
from moshijax.convert.mimi import save_mimi
from moshijax.convert.random import random_mimi
from tests.codes import assert_codes_vary, assert_same_codes


TINY = PRESETS["tiny"]
FRAMES = 37  # two chunks and a rest
SAMPLES = FRAMES * TINY.frame_size - 5
weights_of_file = random_mimi(TINY, seed=1)  # others than `--mimi random` draws
mimi = for_inference(weights_of_file)
audio = (np.random.default_rng(0).standard_normal(SAMPLES) * 0.3).astype(np.float32)
decode = jax.jit(lambda m, codes: m.decode(codes)[0])


@functools.cache
def latents_of_the_whole():
    whole = pad_to_frames(jnp.asarray(audio)[None, :, None], TINY.frame_size)
    return jax.jit(lambda m, x: m.encoder(x)[0])(mimi, whole)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "in.wav", audio, 24000, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return str(save_mimi(weights_of_file, path))


@pytest.fixture
def run(folder, weights):
    def run(command, *args, mimi=weights):
        main([command, *map(str, args), "--mimi", mimi, "--preset", "tiny"])

    return run


def codes_of(path):
    with np.load(path) as file:
        assert file["sample_rate"] == 24000
        return file["codes"]


def test_commands_give_the_codes_and_sound_of_the_whole(run, capsys):
    run("encode", "in.wav", "a.npz", "--codebooks", 3)
    run("encode", "in.wav", "b.npz", "--codebooks", 3, "--stream")
    latents = latents_of_the_whole()
    whole = mimi.quantizer.quantize(latents, 3)
    assert_codes_vary(whole)
    for name in ("a.npz", "b.npz"):
        codes = codes_of(name)
        assert codes.shape == (3, FRAMES)
        assert_same_codes(codes[None], whole, mimi.quantizer, latents)
    want = np.asarray(decode(mimi, codes_of("a.npz")[None]))[0, :, 0]
    for stream in ([], ["--stream"]):
        run("decode", "a.npz", "out.wav", *stream)
        got, rate = soundfile.read("out.wav", dtype="float32")
        assert rate == 24000
        np.testing.assert_allclose(got, want, atol=2 / 32768)  # 16-bit samples
    run("roundtrip", "in.wav", "there.wav", "--codebooks", 3)
    got, _ = soundfile.read("there.wav", dtype="float32")
    assert got.shape == audio.shape
    np.testing.assert_allclose(got, want[:SAMPLES], atol=2 / 32768)
    assert "a.npz: 3 codebooks, 37 frames" in capsys.readouterr().out


def test_any_rate_channels_and_format_by_random_weights(run):
    stereo = np.repeat(np.sin(np.arange(1000) / 9)[:, None] * 0.3, 2, axis=1)
    soundfile.write("in.flac", stereo, 44100)
    run("roundtrip", "in.flac", "out.ogg", mimi="random")
    info = soundfile.info("out.ogg")
    assert (info.samplerate, info.channels, info.frames) == (24000, 1, 544)


def test_one_codebook_is_enough(run):
    run("encode", "in.wav", "a.npz", "--codebooks", 1)
    latents = latents_of_the_whole()
    codes = codes_of("a.npz")
    assert codes.shape == (1, FRAMES)
    assert_same_codes(codes[None], mimi.quantizer.quantize(latents, 1), mimi.quantizer, latents)


def refused(capsys, *args):
    """Runs a command that must fail, and returns its one line."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    lines = capsys.readouterr().err.splitlines()
    message = caught.value.code
    if not isinstance(message, str):
        assert message == 1
        (message,) = lines
    assert "\n" not in message
    return message


TRY = ("--mimi", "random", "--preset", "tiny")


def test_wrong_audio_is_refused(folder, capsys):
    soundfile.write("nan.wav", np.array([0, np.nan] * 999), 24000, subtype="FLOAT")
    pathlib.Path("text.wav").write_text("no audio")
    pathlib.Path("void.wav").write_bytes(b"")
    for name, sentence in (
        ("none.wav", "none.wav: there is no such audio file; check the path"),
        ("text.wav", "text.wav cannot be read as audio"),
        ("void.wav", "void.wav is empty"),
        ("nan.wav", "nan.wav has the value nan at 0.000 s (sample 1, channel 0)"),
    ):
        assert sentence in refused(capsys, "encode", name, "out.npz", *TRY)
        assert not pathlib.Path("out.npz").exists()
    assert "nan.wav has the value nan" in refused(capsys, "roundtrip", "nan.wav", "out.wav", *TRY)
    assert {p.name for p in folder.iterdir()} == {"in.wav", "nan.wav", "text.wav", "void.wav"}


def test_no_command_overwrites_what_it_reads(folder, weights, capsys):
    np.savez("x.npz", codes=np.zeros((2, 3), int), sample_rate=24000)
    (folder / "in.npz").symlink_to("in.wav")
    (folder / "x.wav").hardlink_to("x.npz")
    (folder / "weights.wav").symlink_to(weights)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for args in (
        ("roundtrip", "in.wav", "./in.wav", *TRY),
        ("encode", "in.wav", "in.npz", *TRY),
        ("decode", "x.npz", "x.wav", *TRY),
        ("roundtrip", "in.wav", "weights.wav", "--mimi", weights, "--preset", "tiny"),
    ):
        assert f"{args[2]} is the file that is read as" in refused(capsys, *args)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_warning_goes_before_the_result(folder, capsys):
    data = pathlib.Path("in.wav").read_bytes()
    pathlib.Path("cut.wav").write_bytes(data[: len(data) // 2])
    main(["encode", "cut.wav", "out.npz", *TRY])
    out, err = capsys.readouterr()
    assert err.startswith("warning: cut.wav is cut short: its header promises ")
    assert out.startswith("out.npz: ")


def test_wrong_codes_are_refused(folder, capsys):
    np.savez("x.npz", codes=np.full((2, 3), 32), sample_rate=24000)
    assert "x.npz has codes from 32 to 32; the model's go from 0 to 31" in refused(
        capsys, "decode", "x.npz", "out.wav", *TRY
    )
    np.savez("x.npz", codes=np.zeros((5, 3), int), sample_rate=24000)
    assert "x.npz has codes of 5 codebooks, but the model has 4" in refused(
        capsys, "decode", "x.npz", "out.wav", *TRY
    )
    assert "no file of codes" in refused(capsys, "decode", "in.wav", "out.wav", *TRY)


def test_wrong_weights_are_refused(folder, weights, capsys):
    def load(path, preset="tiny"):
        args = ("--mimi", path, "--preset", preset)
        return refused(capsys, "encode", "in.wav", "out.npz", *args)

    content = pathlib.Path(weights).read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    assert "cut.safetensors is cut short" in load("cut.safetensors")
    (folder / "head.safetensors").write_bytes(content[:1000])
    assert "head.safetensors says that its header has" in load("head.safetensors")
    assert "none.safetensors: there is no such file; check the path" in load("none.safetensors")
    assert "in.wav" in load("in.wav")
    assert "tiny.safetensors" in load(weights, "small")
    assert "is no name of a hub file" in load("hf://kyutai")


def test_wrong_arguments_are_refused(folder, capsys):
    for args, sentence in (
        ((), "the following arguments are required: COMMAND"),
        (("transcode", "in.wav", "out"), "invalid choice: 'transcode'"),
        (("encode", "in.wav"), "the following arguments are required: OUT"),
        (("encode", "in.wav", "out.npz", "--preset", "huge"), "invalid choice: 'huge'"),
        (("encode", "in.wav", "out.npz", "--codebooks", "x"), "invalid int value: 'x'"),
        (("encode", "in.wav", "out.npz", "--codebooks", "33"), "--codebooks 33: the preset mimi"),
        (("encode", "in.wav", "out.npz", "--codebooks", "0"), "has 1 to 32 codebooks"),
        (("encode", "in.wav", "in.wav", *TRY), "in.wav is to hold codes, so its name must end in"),
        (("encode", "in.wav", "no/out.npz", *TRY), "there is no folder no; make it first"),
        (("roundtrip", "in.wav", "out.xyz", *TRY), "out.xyz ends in '.xyz'"),
    ):
        assert sentence in refused(capsys, *args)


def test_help_shows_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("encode", "decode", "roundtrip", "in.wav out.npz"))


def test_command_fails_without_a_traceback():
    command = [sys.executable, "-m", "moshijax.codec", "encode", "none.wav", "out.npz"]
    root = pathlib.Path(__file__).parent.parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "moshijax.codec: none.wav: there is no such audio file; check the path\n"
    )
