import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from moshijax.train.checkpoints import load_leaves
from moshijax.train.log import read_metrics


ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = ["-m", "distill", "--config", "configs/distill_vision.py:tiny"]


def call(*args, **options):
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--config.optimizers.model.learning_rat=3"], 'Did you mean "learning_rate"'),
        (["--config.batch_size=many"], "invalid literal"),
        (["--config.teachers.teacher.load=nowhere"], "nor a work directory: fetch or train"),
        (["--config.batch_size=15", "--config.mesh.data=2"], "does not make 1 devices"),
        (["surplus"], "surplus argument 'surplus'"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else None,
)
def test_wrong_command_ends_with_one_sentence(tmp_path, extra, sentence):
    result = call(*TINY, "--workdir", tmp_path, *extra)
    assert result.returncode
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_killed_run_is_finished_bitwise_equal_by_the_same_command(tmp_path):
    command = [*TINY, "--config.checkpoint_every=2", "--config.eval_every=0", "--workdir"]
    assert call(*command, tmp_path / "whole").returncode == 0
    process = subprocess.Popen([sys.executable, *command, tmp_path / "killed"], cwd=ROOT)
    while not list((tmp_path / "killed").glob("checkpoints/[0-9]")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = call(*command, tmp_path / "killed")
    assert "resumed" in result.stderr
    assert "step 20/20" in result.stderr
    assert "this run is done already" in call(*command, tmp_path / "killed").stderr
    whole, killed = (load_leaves(str(tmp_path / name), "model") for name in ("whole", "killed"))
    for name, array in whole.items():
        np.testing.assert_array_equal(array, killed[name], err_msg=name)


def test_two_processes_cache_the_targets_of_one(tmp_path):
    short = ["--config.num_steps=6", "--config.eval_every=0", "--config.cache.num_plans=2"]

    def command(name):
        return [
            *TINY,
            "--workdir",
            tmp_path / name,
            f"--config.cache.folder={tmp_path / name}_cache",
            *short,
        ]

    assert call(*command("one")).returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pod = [f"--coordinator={address}", "--num_processes=2"]
    pod += ["--config.mesh.data=1", "--config.mesh.fsdp=2"]
    line = [sys.executable, *map(str, command("two")), *pod]
    processes = [subprocess.Popen([*line, f"--process_id={i}"], cwd=ROOT) for i in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    one, two = (load_leaves(str(tmp_path / name), "model") for name in ("one", "two"))
    for name, array in one.items():
        # Adam divides by small moments, so that rounding of the gradients grows.
        np.testing.assert_allclose(array, two[name], atol=1e-4, err_msg=name)
    for file in (tmp_path / "one_cache").glob("*.npz"):
        with np.load(file) as wanted, np.load(tmp_path / "two_cache" / file.name) as found:
            np.testing.assert_allclose(found["logits/teacher"], wanted["logits/teacher"], atol=1e-5)


@pytest.mark.slow
def test_quickstart_writes_its_report_and_goes_on_where_it_stopped(tmp_path):
    command = ["-m", "distill.quickstart", "--tiny", "--workdir", tmp_path]
    result = call(*command)
    assert result.returncode == 0, result.stderr
    assert "Function matching" in result.stdout
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") >= 4
    assert read_metrics(tmp_path / "fixed" / "metrics.jsonl")[-1]["step"] == 20
    again = call(*command)
    assert again.stderr.count("this run is done already") == 5
    assert again.stdout.splitlines()[:7] == result.stdout.splitlines()[:7]
