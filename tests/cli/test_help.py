import os
import pathlib
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).parent.parent.parent
LINES = 32  # of a screen
COMMANDS = {
    "moshijax": "moshijax train --config",
    "moshijax.train": "python -m moshijax.train --config",
    "moshijax.preflight": "python -m moshijax.preflight --config",
    "moshijax.lm.run": "python -m moshijax.lm.run --lm",
    "moshijax.codec": "python -m moshijax.codec encode",
    "distill": "python -m distill --config",
    "distill.evaluate": "python -m distill.evaluate --config",
    "distill.quickstart": "python -m distill.quickstart --workdir",
}


def call(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_one_screen_with_examples_first(module):
    result = call(module, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) <= LINES
    # One sentence, then the first example.
    assert result.stdout.splitlines()[2].startswith(f"    {COMMANDS[module]}")


@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip"])
def test_help_of_a_codec_command_is_one_screen(command):
    result = call("moshijax.codec", command, "--help", COLUMNS="80")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) <= LINES


def test_full_help_has_all_options():
    short, full = (call("moshijax.lm.run", f"--help{end}").stdout for end in ("short", "full"))
    assert "--top-p" not in short
    assert "--top-p" in full
    assert set(short.splitlines()[:-1]) <= set(full.splitlines())
    short, full = (call("distill", f"--help{end}") for end in ("short", "full"))
    assert (short.returncode, full.returncode) == (0, 0)
    assert "--verbosity" not in short.stdout.replace("--[no]", "--")
    assert "verbosity" in full.stdout


def test_help_of_a_narrow_or_dumb_terminal():
    for module in ("moshijax.lm.run", "moshijax.train"):
        result = call(module, "--help", COLUMNS="40", TERM="dumb", NO_COLOR="1")
        assert (result.returncode, result.stderr) == (0, "")
        assert "\x1b" not in result.stdout
