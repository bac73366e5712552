import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder


ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel in it and nothing else of the checkout."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def call(folder, site, line, *args):
    return subprocess.run(
        [sys.executable, "-c", line, *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )


def test_a_wheel_has_the_experiments_but_no_package_of_their_name(site):
    published = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {path.name for path in (site / "moshijax" / "configs").iterdir()} == published
    # `configs` at the top would be anybody's.
    assert {p.name for p in site.iterdir() if p.suffix != ".dist-info"} == {"moshijax", "distill"}


def test_the_experiments_of_a_wheel_are_read_from_an_empty_folder(site, tmp_path):
    line = """
import pathlib
from moshijax.cli import config_files
folder = config_files.published()
for path in config_files.experiments(folder):
    print(path.stem, config_files.load(f"configs/{path.name}:tiny").experiment)
print(folder)
"""
    result = call(tmp_path, site, line)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert "distill_vision distill.vision.experiment" in lines
    assert "moshi_live moshijax.experiments.live" in lines
    assert lines[-1] == str(site / "moshijax" / "configs")
    assert not list(tmp_path.iterdir())


def test_the_templates_of_pages_are_in_a_wheel(site, tmp_path):
    line = "from moshijax.report import page; print(page.document('T', page.header('T')), end='')"
    result = call(tmp_path, site, line)
    assert result.stderr == ""
    assert result.stdout.startswith("<!doctype html>")
    assert "<h1>T</h1>" in result.stdout


@pytest.mark.parametrize(
    ("script", "args", "code", "text"),
    [
        ("moshijax", ["--help"], 0, "moshijax codec encode in.wav codes.npz"),
        ("moshijax", [], 1, "moshijax: the following arguments are required: command"),
        ("moshijax", ["trian"], 1, "moshijax: argument command: invalid choice: 'trian'"),
        ("moshijax", ["--version"], 0, "moshijax 0.1.0"),
        ("moshijax", ["codec", "encode", "no.wav", "x.npz"], 1, "no.wav: there is no such"),
        ("moshijax", ["lm", "--help"], 0, "python -m moshijax.lm.run --lm random"),
        ("moshijax", ["preflight", "--help"], 0, "--topology"),
        ("moshijax", ["train", "--version"], 0, "moshijax 0.1.0"),
        ("distill", ["evaluate", "--help"], 0, "--student"),
        ("distill", ["quickstart", "--help"], 0, "--[no]tiny"),
        ("distill", ["--workdir", "w"], 1, "distill: --config is missing"),
    ],
)
def test_installed_commands_work_in_an_empty_folder(site, tmp_path, script, args, code, text):
    (entries,) = site.glob("*.dist-info/entry_points.txt")
    points = dict(line.split(" = ") for line in entries.read_text().splitlines() if " = " in line)
    module, _, function = points[script].partition(":")
    # What pip writes into the script.
    line = f"import sys; from {module} import {function}; sys.argv[0] = {script!r}; {function}()"
    result = call(tmp_path, site, line, *args)
    assert result.returncode == code
    assert text in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())
