import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from moshijax.cli import config_files
from moshijax.system.errors import UserError


ROOT = pathlib.Path(__file__).parent.parent.parent
OURS = "from moshijax.system.errors import UserError"
GOOD = """
from ml_collections import ConfigDict

def get_config(arg=None):
    return ConfigDict({"experiment": "distill.vision.experiment", "arg": arg or ""})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("a.py", ""),
        ("a.py:", ""),
        ("a.py:tiny,b=1:2", "tiny,b=1:2"),
        ("my own runs/a.py:tiny", "tiny"),
        ("run:1/a.py", ""),
        ("run:1/a.py:tiny", "tiny"),
        ("-/a.py:tiny", "tiny"),
        ("configs/mine.py:tiny", "tiny"),
        ("a", ""),
    ],
)
def test_a_path_may_hold_what_a_name_may_hold(folder, name, arg):
    path = name.removesuffix(":" + arg) if arg else name.removesuffix(":")
    write(path, GOOD)
    assert config_files.load(name).arg == arg
    assert config_files.load(f"{folder}/{name}").arg == arg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef get_config(:", "a.py:tiny, line 2: invalid syntax"),
        ("x = 1", "a.py:tiny: there is no get_config(): name one such as configs/moshi.py"),
        ("get_config = 3", "there is no get_config()"),
        ("def get_config(arg): return None", "get_config() returns None, which is no experiment"),
        ("def get_config(arg): return {'a': 1}", "get_config() returns a dict, which is no exp"),
        ("def get_config(): return {}", "a.py:tiny: it has no switches: leave out :tiny"),
        ("import nowhere", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config(arg):\n x = 1\n return y", "line 3: NameError: name 'y' is not defined"),
        ("def get_config(arg): raise ValueError('odd')", "line 1: ValueError: odd"),
        (f"{OURS}\ndef get_config(arg): raise UserError('no arm')", "a.py:tiny: no arm"),
        ("def get_config(arg): raise KeyError('arm')", "line 1: KeyError: 'arm'"),
        ("raise SystemExit(3)", "a.py:tiny, line 1: SystemExit: 3"),
        ('{"num_steps": null}', "line 1: NameError: name 'null' is not defined"),
        (b"x = '\xe9'", "a.py:tiny"),
        (b"\x00\x01\x02", "a.py:tiny"),
    ],
)
def test_a_file_that_is_no_experiment_is_one_sentence(folder, text, message):
    write("a.py", text)
    with pytest.raises(UserError) as error:
        config_files.load("a.py:tiny")
    assert message in str(error.value)
    assert str(error.value).startswith("--config a.py:tiny")


def test_a_file_that_is_not_there_is_one_sentence_that_names_the_published(folder):
    for name, message in (
        ("nix.py:tiny", "--config nix.py: there is no such file; check the path, or take one of"),
        ("configs/nix.py", "--config configs/nix.py: there is no such file"),
        ("moshi.py", "--config moshi.py: there is no such file"),
        (".", "--config .: is a folder"),
        ("", "--config is empty"),
        ("-", "--config -: there is no such file"),
    ):
        with pytest.raises(UserError) as error:
            config_files.load(name)
        assert message in str(error.value)
        assert str(error.value).endswith("configs/moshi.py, configs/moshi_live.py")
        assert "loop" not in str(error.value)


def test_an_unknown_switch_is_named(folder):
    with pytest.raises(UserError, match=r"^--config configs/moshi.py:fast: unknown switch 'fast'"):
        config_files.load("configs/moshi.py:fast")


def test_published_files_are_found_from_anywhere_unless_there_are_own_ones(folder):
    assert config_files.load("configs/moshi.py:tiny").num_steps == 40
    write("configs/moshi.py", GOOD)
    assert config_files.load("configs/moshi.py:tiny").arg == "tiny"


def test_files_import_their_neighbours_before_the_published_ones(folder, monkeypatch):
    write("configs/mine.py", "from configs import loop, own\nfrom . import own as same\n" + GOOD)
    write("configs/own.py", "")
    assert config_files.load("configs/mine.py").arg == ""
    write("elsewhere/mine.py", "import configs.loop\nfrom configs.loop import switches" + GOOD)
    assert config_files.load("elsewhere/mine.py").arg == ""
    write("configs/loop.py", "raise ValueError('of the neighbour')")
    with pytest.raises(UserError, match="of the neighbour"):
        config_files.load("configs/mine.py")
    # A regular package of that name, on the path: it is whole, and ours is not taken for it.
    write("project/configs/__init__.py", "WIDTH = 3")
    write("elsewhere/mine.py", "from configs import WIDTH, loop\nx = loop.switches" + GOOD)
    monkeypatch.setattr(sys, "path", [str(folder / "project"), *sys.path])
    assert config_files.load("elsewhere/mine.py").arg == ""
    assert config_files.load("configs/helium.py:tiny").num_steps == 40


def test_reading_leaves_no_module_and_no_file_behind(folder):
    write("configs/mine.py", "from configs import loop" + GOOD)
    before = {name: sys.modules[name] for name in sys.modules if name.startswith("configs")}
    config_files.load("configs/mine.py")
    after = {name: sys.modules[name] for name in sys.modules if name.startswith("configs")}
    assert before == after
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["mine.py"]


def test_a_key_that_a_config_lacks_is_named():
    config = ConfigDict({"a": 1})
    for look in (lambda: config.num_steps, lambda: config["num_steps"]):
        with pytest.raises((AttributeError, KeyError)) as error:
            look()
        assert "the config has no key num_steps" in (config_files.missing_key(error.value) or "")
    with pytest.raises(KeyError) as error:
        {}["num_steps"]
    assert config_files.missing_key(error.value) is None


def call(folder, *args, **environment):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "distill: --config and --workdir are missing: give them as in `python -m distill"),
        (["--workdir", "w"], "distill: --config is missing: give them as in `python -m distill"),
        (["--config", "a.py", "--workdir="], "distill: --workdir: the path is empty"),
        (["--config", "a.py", "--workdir", "w", "--config.argg=1"], 'Did you mean "arg"'),
        (["--config", "nix.py", "--workdir", "w"], "distill: --config nix.py: there is no such"),
        (["--config", "a.py", "--workdir", "w", "--wrkdir=x"], "Did you mean: workdir"),
        (["--config", "a.py", "--workdir", "w", "--", "-x"], "surplus argument '-x'"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_makes_nothing(folder, args, sentence):
    write("a.py", GOOD)
    result = call(folder, "-m", "distill", *args)
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["a.py"]


def test_a_config_that_lacks_most_is_one_sentence(folder):
    write("a.py", GOOD)
    result = call(folder, "-m", "distill", "--config", "a.py", "--workdir", "w")
    assert result.returncode == 1
    assert "distill: the config has no key " in result.stderr
    assert len(result.stderr.splitlines()) == 1
