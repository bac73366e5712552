import os
import shutil
import subprocess
import sys

import pytest

from tests.tpu_scripts.cases import CASES, GOLDEN, ROOT, call, dry_runs


SCRIPTS = sorted((ROOT / "tpu_scripts").glob("*.sh"))
COMMANDS = [path for path in SCRIPTS if path.name not in ("common.sh", "host.sh")]


@pytest.fixture
def tools(tmp_path):
    """A PATH whose gcloud, xpk, kubectl and docker write down what they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "xpk", "kubectl", "docker"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nfor a in {name} "$@"; do echo "$a"; done >> "$CALLS"\n')
        path.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {"PATH": path, "CALLS": str(tmp_path / "calls"), "TMPDIR": str(tmp_path)}


def test_shellcheck_finds_nothing():
    checker = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
    result = subprocess.run(
        [checker, "--external-sources", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_every_command_has_a_case():
    assert sorted(CASES) == [path.stem for path in COMMANDS]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_script_is_strict_and_explains_itself(path):
    assert "\nset -euo pipefail\n" in path.read_text()
    shown = call(f"{path.name} --help").stdout
    assert "--dry-run prints the commands" in shown
    # Also among other options, and before what they need.
    for options in ("-h", "--dry-run --help", "--project= -h -- a"):
        result = call(f"{path.name} {options}")
        assert (result.returncode, result.stdout) == (0, shown)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_is_one_screen_with_an_example_first(path):
    result = subprocess.run(["bash", path, "--help"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert 4 < len(lines) <= 24
    assert max(map(len, lines)) <= 80
    _, blank, example, *_ = lines
    assert blank == ""
    name = "create.sh" if path.name == "common.sh" else path.name
    assert f"{name} " in example


@pytest.mark.parametrize("name", CASES)
def test_dry_run_prints_what_it_always_printed(name):
    assert dry_runs(name) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", [name for name in CASES if name != "resume"])
def test_dry_run_pasted_into_a_shell_does_what_the_script_does(name, tools, tmp_path):
    for case in CASES[name]:
        written = tmp_path / "calls"
        assert call(case, env=tools).returncode == 0
        done = written.read_text()
        written.unlink()
        printed = call(case, dry=True, env=tools).stdout
        assert not written.exists()
        subprocess.run(["bash", "-ec", printed], cwd=ROOT, env=os.environ | tools, check=True)
        assert written.read_text() == done
        written.unlink()


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("create.sh --topology v5p:2x2x1", "give --name (or set TPU_NAME)."),
        ("create.sh --name x", "give --topology or --type."),
        ("create.sh --name x --type v5p-8 --topology v5p:2x2x1", "not both."),
        ("create.sh --name x --topology 2x2", "--topology: '2x2' is not like v5p:4x4x8."),
        ("create.sh --name x --topology v9:2x2", "'v9' is none of v4, v5e, v5p, v6e"),
        ("create.sh --name x --type v5p-8 --spot --reserved", "give --spot or --reserved"),
        ("create.sh --nam x", "unknown option --nam; --help lists them."),
        ("create.sh --name", "--name needs a value."),
        ("create.sh pod", "surplus argument 'pod'"),
        ("run.sh --name x", "what is to be run stands after --."),
        ("run.sh --name x --env 3=4 -- a", "--env: '3=4' is not KEY=VALUE."),
        ("gke_create.sh --cluster c --type t --spot --reservation r", "not both."),
    ],
)
def test_wrong_options_are_one_sentence(case, sentence, tools, tmp_path):
    result = call(case, env=tools)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(case.split()[0] + ": ")
    assert sentence in result.stderr
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("script", ["delete.sh", "resume.sh", "gke_delete.sh --cluster c"])
def test_what_deletes_wants_its_name_on_the_command_line(script, tools, tmp_path):
    result = call(
        f"{script} --yes" if "resume" not in script else script, env=tools | {"TPU_NAME": "pod"}
    )
    assert result.returncode == 2
    assert "give --name on the command line" in result.stderr
    assert not (tmp_path / "calls").exists()


def test_code_that_is_shipped_is_what_git_knows(tools, tmp_path):
    assert call("setup.sh --name pod", env=tools).returncode == 0
    names = subprocess.run(
        ["tar", "-tzf", tmp_path / "moshijax.tar.gz"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"moshijax/train/loop.py", "constraints.txt", "tpu_scripts/host.sh"} <= set(names)
    assert not [name for name in names if name.startswith((".venv", ".git/", "runs"))]
