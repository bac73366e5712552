"""Faults that no user made: each kind of command line shows where they lie, and ends with 1."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from moshijax.cli import codec, export, lm


ROOT = pathlib.Path(__file__).parent.parent.parent
NUMPY = "ValueError: operands could not be broadcast together with shapes (8,2) (3,)"
JAX = "ValueError: Incompatible types for broadcasting"
EXPERIMENT = """
import jax.numpy as jnp
import numpy as np
from tests.train.toy import ToyData, ToyTask, config, make_with

class Task(ToyTask):
    def update(self, kind, state, frozen, batch, key):
        return np.ones((8, 2)) + np.ones(3)

class Model(ToyTask):
    def init(self, key):
        return jnp.broadcast_to(jnp.ones(2), (3,))

def make(config, mesh):
    task = Task if config.where == "task" else Model
    return make_with(ToyData(config.batch_size), {}, task=task)(config, mesh)

def get_config(where):
    return config(experiment="broken", where=where, eval_every=0)
"""
TINY = ROOT / "configs/distill_vision.py:tiny"
EVALUATE = """
import numpy as np
from distill.vision import teachers
from moshijax.system.launch import launch

teachers.load_model = lambda *_: np.ones((8, 2)) + np.ones(3)
launch("distill.evaluate:run", "interrupted")
"""


def jax_misfit(*_, **__):
    jnp.broadcast_to(jnp.ones(2), (3,))


def numpy_misfit(*_, **__):
    np.ones((8, 2)) + np.ones(3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["-m", "moshijax.train", "--config=broken.py:task", "--workdir=w"], NUMPY),
        (["-m", "distill", "--config=broken.py:model", "--workdir=w"], JAX),
        (["-m", "moshijax.preflight", "--config=broken.py:model", "--topology=v5e:2x2"], JAX),
        (
            ["-c", EVALUATE, "--student=w.npz", f"--config={TINY}"],
            NUMPY,
        ),
    ],
    ids=["train", "distill", "preflight", "evaluate"],
)
def test_commands_over_experiments_show_a_foreign_error(folder, words, last):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert last in result.stderr
    assert "process 0 failed" not in result.stderr  # It is alone.


@pytest.mark.parametrize(
    ("main", "patched", "words"),
    [
        (codec.main, (codec, "load"), ["encode", "in.wav", "out.npz", "--mimi=random"]),
        (lm.main, (lm, "open_session"), ["--lm=random", "--text-only", "--prompt=1"]),
        (export.main, (export, "export"), ["w", "out.safetensors"]),
    ],
    ids=["codec", "lm", "export"],
)
@pytest.mark.parametrize("misfit", [numpy_misfit, jax_misfit])
def test_commands_over_files_show_a_foreign_error(
    folder, monkeypatch, main, patched, words, misfit
):
    soundfile.write("in.wav", np.zeros(1920), 24000)
    monkeypatch.setattr(*patched, misfit)
    with pytest.raises(ValueError, match="broadcast") as error:
        main(words)
    assert error.traceback[-1].name != "complaining"


def test_an_error_that_comes_out_of_a_command_has_its_traceback_and_ends_with_1(tmp_path):
    (tmp_path / "work.py").write_text("def main():\n    int('x')\n")
    line = "from moshijax.system.launch import launch; launch('work:main', 'work: interrupted')"
    result = subprocess.run(
        [sys.executable, "-c", line],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert 'work.py", line 2, in main' in result.stderr
    assert result.stderr.endswith("ValueError: invalid literal for int() with base 10: 'x'\n")
