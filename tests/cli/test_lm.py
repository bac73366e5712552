import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import soundfile

from moshijax.cli import lm
from moshijax.cli import lm as commands
from moshijax.cli.lm import main, user_frames
from moshijax.convert.lm import save_lm
from moshijax.convert.lm.config import to_moshi
from moshijax.data.audio import Recording
from moshijax.live.session import Session
from moshijax.lm.presets import PRESETS
from tests.lm_models import random_model


# A codec of 40 entries does not exist: what needs one is drawn to fit it.
RANDOM = ["--lm", "random", "--mimi", "random", "--mimi-preset", "tiny"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    sound = 0.1 * np.random.default_rng(0).standard_normal(24 * 40 + 5)
    soundfile.write(tmp_path / "user.wav", sound.astype(np.float32), 24000, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dialogue_has_both_sides(folder, capsys):
    main([*RANDOM, "user.wav", "both.wav"])
    sound, rate = soundfile.read("both.wav")
    user, _ = soundfile.read("user.wav")
    assert rate == 24000
    # The user as recorded; the model from its first whole frame on, a frame late.
    np.testing.assert_allclose(sound[: len(user), 1], user, atol=1e-4)
    assert np.abs(sound[:24, 0]).max() == 0
    assert np.abs(sound[-24:, 0]).max() > 0
    printed = capsys.readouterr().out
    assert "<" in printed
    assert "both.wav: 42 frames" in printed


def test_the_same_seed_says_the_same(folder):
    for name in ("a.wav", "b.wav"):
        main([*RANDOM, "user.wav", name, "--seed", "3"])
    np.testing.assert_array_equal(soundfile.read("a.wav")[0], soundfile.read("b.wav")[0])


def test_a_terminal_that_is_gone_does_not_take_the_recording_along(folder):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "moshijax.lm.run", *RANDOM, "user.wav", "both.wav"]
    root = str(pathlib.Path(__file__).parent.parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        command, env=environment, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")
    assert soundfile.info("both.wav").frames == 42 * 24 + 24


def test_a_dialogue_does_not_overwrite_its_user(folder, capsys):
    pathlib.Path("link.wav").symlink_to("user.wav")
    before = pathlib.Path("user.wav").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main([*RANDOM, "user.wav", "link.wav"])
    assert "link.wav is the file that is read as user.wav, and would be" in str(caught.value.code)
    assert pathlib.Path("user.wav").read_bytes() == before


def test_a_transcript_needs_no_output(folder, capsys):
    main([*RANDOM, "--preset", "stt_1b_tiny", "user.wav", "--text-temperature", "0"])
    assert "1541 frames" in capsys.readouterr().out


def test_silence_around_a_recording_is_exact_to_the_sample(folder):
    config = dataclasses.replace(PRESETS["stt_1b_tiny"], silence_prefix=0.0105, frame_shift=-0.9999)
    frames = list(user_frames(Recording("user.wav"), config, 24000, 24))
    assert {frame.shape for frame, _ in frames} == {(24,)}
    assert {silent for _, silent in frames} == {""}
    user, _ = soundfile.read("user.wav", dtype="float32")
    heard = np.concatenate([frame for frame, _ in frames])
    # 252 samples are 10.5 frames; with 965 samples and 2 after they fill 51 frames.
    assert len(heard) == 51 * 24
    np.testing.assert_array_equal(heard, np.pad(user, (252, 51 * 24 - 252 - len(user))))


def test_a_translator_is_told_the_end_by_a_code_that_the_codec_never_heard(folder, monkeypatch):
    heard, fed = [], []
    encoder, feed = lm.encoder, Session.feed

    def listening(*args):
        encode = encoder(*args)
        return lambda block: heard.append(block) or encode(block)

    monkeypatch.setattr(lm, "encoder", listening)
    monkeypatch.setattr(Session, "feed", lambda s, codes: fed.append(codes) or feed(s, codes))
    monkeypatch.setattr(commands, "LIMIT", 0.003)
    main([*RANDOM, "--preset", "hibiki_1b_tiny", "user.wav", "both.wav"])
    assert len(fed) == 41 + 1 + 3
    assert len(heard) == len(fed) - 1
    (end,) = [t for t, codes in enumerate(fed) if (codes == 32).all()]
    assert end == 41
    assert {codes.shape for codes in fed} == {fed[0].shape}


@pytest.fixture
def tokenizer(folder):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the sea is wide and the sky is high"] * 20),
        model_prefix="text",
        vocab_size=24,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return "text.model"


def test_a_text_goes_on(folder, tokenizer, capsys):
    words = ["--tokenizer", tokenizer, "--prompt", "the sea", "--num-pieces", "5"]
    main(["--lm", "random", "--text-only", *words])
    assert "the sea" in capsys.readouterr().out


def write(name, model):
    save_lm(model, name)
    with open("config.json", "w") as file:
        json.dump(to_moshi(model.config), file)
    return name


def test_a_file_is_read_with_the_config_beside_it(folder, capsys):
    write("model.safetensors", random_model("helium_2b"))
    words = ["--text-only", "--prompt", "5 6", "--num-pieces", "4", "--text-temperature", "0"]
    main(["--lm", "model.safetensors", *words])
    one = capsys.readouterr().out.split("\n")[0]
    main(["--lm", ".", *words])
    assert capsys.readouterr().out.split("\n")[0] == one
    assert one.startswith("<5><6>")
    main(["--lm", ".", "--bits", "8", *words])
    assert capsys.readouterr().out.startswith("<5><6>")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.wav", "out.wav"], "none.wav: there is no such audio file"),
        (["user.wav"], "OUT is missing"),
        (["user.wav", "out.txt"], "out.txt ends in '.txt'"),
        (["user.wav", "out.wav", "--tokenizer", "no.model"], "no.model: there is no such file"),
        (["user.wav", "out.wav", "--tokenizer", "user.wav"], "is no SentencePiece model"),
        (["user.wav", "out.wav", "--preset", "tts_1_6b_tiny"], "hears nobody"),
        (
            ["user.wav", "out.wav", "--condition", "mood=good"],
            "--condition: mood is unknown; the model has none",
        ),
        (["user.wav", "out.wav", "--condition", "mood"], "'mood' is not NAME=VALUE"),
        (["user.wav", "out.wav", "--top-p", "0"], "--top-p 0.0 is not above 0"),
        (["user.wav", "out.wav", "--text-top-k", "-1"], "--text-top-k -1 is below 0"),
        ([], "IN is missing"),
    ],
)
def test_what_is_wrong_is_one_sentence(folder, words, message):
    with pytest.raises(SystemExit) as stopped:
        main([*RANDOM, *words])
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)


SAY = ["user.wav", "out.wav"]
HEAR = ["user.wav", "--preset", "stt_1b_tiny"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SAY, "--text-temperature", "nan"], "--text-temperature nan is no finite number"),
        ([*SAY, "--audio-temperature", "inf"], "--audio-temperature inf is no finite number"),
        ([*SAY, "--audio-top-k", "-1"], "--audio-top-k -1 is below 0"),
        ([*SAY, "--top-p", "nan"], "--top-p nan is not above 0"),
        ([*SAY, "--top-p", "1.5"], "--top-p 1.5 is not above 0 and at most 1"),
        ([*SAY, "--padding-bonus", "nan"], "--padding-bonus nan is no finite number"),
        ([*SAY, "--repetition-penalty", "0"], "--repetition-penalty 0.0 is not finite and above"),
        ([*SAY, "--repetition-penalty", "inf"], "--repetition-penalty inf is not finite"),
        ([*SAY, "--guidance", "nan"], "--guidance nan is no finite number"),
        ([*SAY, "--seed", str(2**64)], f"--seed {2**64} is not from 0 to 4294967295"),
        ([*SAY, "--seed", "-1"], "--seed -1 is not from 0"),
        ([*SAY, "--prompt", "5"], "--prompt means nothing without --text-only"),
        ([*SAY, "--num-pieces", "5"], "--num-pieces means nothing without --text-only"),
        ([*SAY, "--shun", "a=b"], "--shun means nothing without --guidance"),
        ([*SAY, "--guidance", "2", "--shun", "a=b"], "--shun: a is unknown; the model has none"),
        ([*SAY, "--condition", "description=x"], "description is unknown; the model has none"),
        (
            [*SAY, "--preset", "hibiki_1b_tiny", "--condition", "mood=x"],
            "mood is unknown; the model has description",
        ),
        ([*SAY, "--condition", "description=caf\udce9"], "--condition: byte 0xE9 at place 16"),
        ([*HEAR, "out.wav"], "'out.wav' is surplus: --lm random writes no sound"),
        ([*HEAR, "--guidance", "2"], "--guidance means nothing for --lm random"),
        ([*HEAR, "--audio-top-k", "2"], "--audio-top-k means nothing for --lm random"),
    ],
)
def test_options_that_cannot_be_or_mean_nothing_are_refused(folder, words, message):
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main([*RANDOM, *words])
    assert message in str(stopped.value)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "a b"], "give numbers of pieces below 48"),
        (["--prompt", "5 \u00b2"], "give numbers of pieces below 48"),
        (["--prompt", "5" * 5000], "give numbers of pieces below 48"),
        (["--preset", "moshi_7b_tiny"], "has 16 audio streams"),
        (["user.wav"], "'user.wav' is surplus: with --text-only nobody is heard"),
        (["--num-pieces", "-1"], "--num-pieces -1 is below 0"),
        (["--guidance", "2"], "--guidance means nothing with --text-only"),
        (["--mimi", "random"], "--mimi means nothing with --text-only"),
        (["--condition", "a=b"], "--condition means nothing with --text-only"),
        (
            ["--prompt", "caf\udce9"],
            "--prompt: byte 0xE9 at place 4 is not UTF-8; convert the text",
        ),
    ],
)
def test_a_text_alone_has_its_own_options(folder, words, message):
    with pytest.raises(SystemExit) as stopped:
        main(["--lm", "random", "--text-only", *words])
    assert message in str(stopped.value)


def test_no_output_overwrites_what_is_read(folder):
    before = pathlib.Path("user.wav").read_bytes()
    os.link("user.wav", "same.wav")
    for name in ("user.wav", "./user.wav", "same.wav"):
        with pytest.raises(SystemExit):
            main([*RANDOM, "user.wav", name])
    assert pathlib.Path("user.wav").read_bytes() == before


def test_files_that_do_not_belong_together_are_named(folder, tokenizer):
    write("model.safetensors", random_model("moshi_7b"))
    user = ["user.wav", "out.wav", "--mimi", "random"]
    for words, message in (
        ([*user, "--mimi-preset", "tiny"], "codebooks of 32 entries, the model's have 40"),
        (
            ["--text-only", "--preset", "helium_2b_tiny", "--tokenizer", tokenizer],
            "18 pieces, the model",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["--lm", "model.safetensors", *words])
    (folder / "config.json").write_text("[1]")
    with pytest.raises(SystemExit, match=r"config.json holds no JSON object"):
        main(["--lm", "model.safetensors", *user])
