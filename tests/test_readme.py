"""The README's commands and its Python are run where they need no weights, else parsed."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import wave

import numpy as np
import pytest

from moshijax.cli import config_files
from moshijax.convert.lm import save_lm
from tests.lm_models import random_model


ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
# What makes a command of the README cheap without changing what it does.
CHEAPER = {
    "distill": ["--config.num_steps=6"],
    "moshijax.train": ["--config.num_steps=6", "--config.batch_size=2", "--config.data.length=8"],
    "moshijax.codec": ["--preset", "small"],
}
MADE = {"moshijax.codec": ["codes.npz", "out.wav"], "moshijax.lm.run": ["dialogue.wav"]}


def blocks(language):
    """The README's fenced blocks with the headings that they are under."""
    heading, found = "", []
    for part in re.split(r"^(## [^\n]*|```\w*\n.*?^```)$", README, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("## "):
            heading = part[3:]
        elif part.startswith(f"```{language}\n"):
            found.append((heading, part.partition("\n")[2].removesuffix("```")))
    return found


def commands():
    """Heading, module and words of every command line of ours; those after another's too."""
    found = []
    for heading, text in blocks(""):
        for line in text.replace("\\\n", "").splitlines():
            if match := re.search(r"python -m ((?:moshijax|distill)\S*) (.*)", line):
                found.append((heading, match[1], shlex.split(match[2], comments=True)))
    return found


def needs_nothing(words):
    return any(word == "random" or word.endswith("tiny") for word in words)


def call(folder, module, *words):
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def write_noise(path):
    samples = np.random.default_rng(0).integers(-3000, 3000, 12_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


RUN = [command for command in commands() if needs_nothing(command[2])]


def test_the_readme_has_its_commands():
    assert len(RUN) >= 6
    assert {module for _, module, _ in RUN} == CHEAPER.keys() | {
        "moshijax.export",
        "moshijax.lm.run",
    }
    assert len(commands()) >= len(RUN) + 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where somebody follows the README from top to bottom."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(ROOT / "configs")
    for name in ("in.wav", "user.wav"):
        write_noise(folder / name)
    return folder


@pytest.mark.parametrize("heading", dict.fromkeys(heading for heading, _, _ in RUN))
def test_commands_that_need_no_weights_run_one_after_the_other(heading, folder):
    for _, module, words in (command for command in RUN if command[0] == heading):
        result = call(folder, module, *words, *CHEAPER.get(module, []))
        assert result.returncode == 0, (module, words, result.stderr)
        assert result.stderr.count("Traceback") == 0
        for made in (w for w in words if w in MADE.get(module, ()) or w.endswith("safetensors")):
            assert (folder / made).stat().st_size > 0
        if "--workdir" in words:
            assert (folder / words[words.index("--workdir") + 1] / "metrics.jsonl").exists()


@pytest.mark.parametrize("module", dict.fromkeys(module for _, module, _ in commands()))
def test_every_flag_of_a_command_is_one_that_it_has(module):
    asked = [words for _, other, words in commands() if other == module]
    subject = [asked[0][0]] if module == "moshijax.codec" else []
    full = "--help" if module in ("moshijax.codec", "moshijax.export") else "--helpfull"
    told = call(ROOT, module, *subject, full)
    assert told.returncode == 0, told.stderr
    names = re.sub(r"--\[no\](\w+)", r"--\1 --no\1", told.stdout)
    for words in asked:
        for word in (word.partition("=")[0] for word in words if word.startswith("--")):
            if not word.startswith("--config."):
                assert re.search(rf"{re.escape(word)}\b", names), (module, word)


def test_every_key_of_a_config_is_one_that_it_has(monkeypatch):
    monkeypatch.chdir(ROOT)
    for _, module, words in commands():
        if "--config" not in words:
            continue
        config = config_files.Parser().parse(words[words.index("--config") + 1])
        for word in (word for word in words if word.startswith("--config.")):
            found = config
            for part in word.partition("=")[0].split(".")[1:]:
                assert part in found, (module, word)
                found = found[part]


def test_the_python_of_fine_tuning_runs(tmp_path, monkeypatch):
    ((heading, text),) = blocks("python")
    assert heading == "Fine-tune Moshi"
    # The same on a tiny model: its preset, and a rank that its widths have.
    for old, new in {
        'PRESETS["moshi_7b"]': 'PRESETS["moshi_7b_tiny"]',
        "rank=128": "rank=2",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    monkeypatch.chdir(tmp_path)
    save_lm(random_model("moshi_7b"), tmp_path / "model.safetensors")
    exec(compile(text, "README.md", "exec"), {})
    assert (tmp_path / "lora.safetensors").stat().st_size > 0
    assert (tmp_path / "fused.safetensors").stat().st_size > 0
