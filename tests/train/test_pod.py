"""Runs of several processes on this machine, through the command line, over gloo."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from moshijax.pod.hosts import EXIT_PEER_LOST, EXIT_STOPPED, Stopped
from moshijax.train import loop
from moshijax.train.checkpoints import load_leaves
from moshijax.train.log import read_metrics
from tests.train.pod import initial
from tests.train.pod_config import get_config
from tests.train.toy import ToyData, ToyEval, make_with


ROOT = pathlib.Path(__file__).parent.parent.parent
PEER_TIMEOUT = 4
COMMAND = [sys.executable, "-m", "tests.train.pod", "--config"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pod(workdir, processes, devices, mesh, fault="", flags=()):
    """Exit code and lines of every process of a run."""
    command = [*COMMAND, f"tests/train/pod_config.py:{mesh}", "--workdir", str(workdir), *flags]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "TOY_FAULT": fault}
    if processes > 1:
        command += [f"--num_processes={processes}", f"--peer_timeout={PEER_TIMEOUT}"]
        env["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=env | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    lines = [process.communicate(timeout=100)[1] for process in started]
    return [process.returncode for process in started], lines


def alone(workdir, mesh, interrupted_at=0, initial=lambda mesh: {}):
    """The same run in this process."""
    config = get_config(mesh)
    data = ToyData(config.batch_size, interrupted_at=interrupted_at)
    sets = {"test": ToyEval(config.batch_size)}
    loop.train(config, make_with(data, sets, initial), str(workdir))


def state(workdir):
    """Model and optimizer of the newest checkpoint."""
    return {p: load_leaves(str(workdir), p) for p in ("model", "optimizer")}


def assert_equal(a, b, rtol=0.0, atol=0.0):
    for part in a:
        for name, array in a[part].items():
            np.testing.assert_allclose(array, b[part][name], rtol, atol, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """This process with its eight devices, to the end."""
    workdir = tmp_path_factory.mktemp("one")
    alone(workdir, "2x2x2")
    return workdir


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes with four devices each, to the end; only process 0 speaks."""
    workdir = tmp_path_factory.mktemp("pair")
    codes, lines = pod(workdir, 2, 4, "2x2x2")
    assert codes == [0, 0], lines
    assert "step 12/12" in lines[0]
    assert "step " not in lines[1]
    return workdir


def test_two_processes_compute_what_one_does(whole, pair):
    # Sums over devices are added in another order by gloo: equal to the last bits, not bitwise.
    assert_equal(state(whole), state(pair), rtol=1e-6, atol=1e-7)
    losses = [
        [r["loss"] for r in read_metrics(w / "metrics.jsonl") if r["kind"] == "train"]
        for w in (whole, pair)
    ]
    assert len(losses[1]) == 6
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_processes_begin_with_their_parts_of_another_runs_model(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOAD", str(whole))
    alone(tmp_path / "one", "2x2x2", initial=initial)
    codes, lines = pod(tmp_path / "pair", 2, 4, "2x2x2")
    assert codes == [0, 0], lines
    assert_equal(state(tmp_path / "one"), state(tmp_path / "pair"), rtol=1e-6, atol=1e-7)
    began, fresh = (read_metrics(w / "metrics.jsonl")[0] for w in (tmp_path / "pair", whole))
    assert began["loss"] < 0.8 * fresh["loss"]


def test_killed_process_ends_the_others_and_all_resume_bitwise(pair, tmp_path):
    codes, lines = pod(tmp_path, 2, 4, "2x2x2", fault="1:9:kill")
    assert codes == [EXIT_PEER_LOST, 137]
    last = lines[0].splitlines()[-1]
    assert last.startswith(f"toy: lost process 1, silent for {PEER_TIMEOUT} s: start the same")
    assert pod(tmp_path, 2, 4, "2x2x2")[0] == [0, 0]
    steps = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "event"]
    assert steps in ([3], [6])  # It resumed; the newest checkpoint may not have been whole.
    assert_equal(state(tmp_path), state(pair))


def test_checkpoint_that_one_process_cannot_read_stays_and_ends_all(pair, tmp_path):
    shutil.copytree(pair, tmp_path / "copy")
    codes, lines = pod(tmp_path / "copy", 2, 4, "2x2x2", fault="1:12:unread")
    assert 0 not in codes
    assert "process 1 could not read" in lines[0]
    assert "MemoryError: no memory" in lines[1]
    assert (tmp_path / "copy" / "checkpoints" / "12").is_dir()
    assert not (tmp_path / "copy" / "broken_checkpoints").exists()


def test_checkpoint_that_one_process_finds_damaged_is_set_aside_by_all(pair, tmp_path):
    shutil.copytree(pair, tmp_path / "copy [1]")
    codes, lines = pod(tmp_path / "copy [1]", 2, 4, "2x2x2", fault="1:12:damaged")
    assert codes == [0, 0], lines
    assert "step 9: resumed." in lines[0]
    assert "(process 1 finds it damaged): moved to" in lines[0]
    assert (tmp_path / "copy [1]" / "broken_checkpoints" / "12").is_dir()
    assert_equal(state(tmp_path / "copy [1]"), state(pair))


def test_run_moves_between_meshes_and_numbers_of_processes(whole, tmp_path):
    codes, lines = pod(tmp_path, 2, 4, "2x2x2", fault="1:2:stop")
    assert codes == [EXIT_STOPPED, EXIT_STOPPED], lines
    with pytest.raises(Stopped):
        alone(tmp_path, "8x1x1", interrupted_at=7)
    # Four processes whose devices share rows: the tensor axis lies across processes.
    codes, lines = pod(tmp_path, 4, 2, "1x2x4", fault="2:9:stop")
    assert codes == [EXIT_STOPPED] * 4, lines
    assert pod(tmp_path, 1, 1, "1x1x1")[0] == [0]
    assert_equal(state(tmp_path), state(whole), rtol=1e-5, atol=1e-6)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows if r.get("message", "").startswith("stopped")]
    resumed = [r["step"] for r in rows if r.get("message") == "resumed."]
    assert len(resumed) == 3
    assert resumed == sorted(set(resumed))


def test_nan_of_one_process_takes_all_back_and_its_error_ends_all(tmp_path):
    faults = "1:5:nan,1:10:error"
    codes, lines = pod(tmp_path, 2, 4, "2x2x2", fault=faults, flags=["--profile=steps=7..8"])
    assert "going back to step 3 with another data order (1 of at most 2)" in lines[0]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert all(np.isfinite(r["loss"]) for r in rows if r["kind"] == "train")
    assert len(list((tmp_path / "profile").glob("process_00[01]/**/*.xplane.pb"))) == 2
    assert codes == [EXIT_PEER_LOST, 1]
    number, traceback = lines[1].split("toy: process 1 failed:\n")
    assert "Traceback" not in number
    assert "could not be broadcast together with shapes (8,4) (3,)" in traceback
    assert f'File "{ROOT}/tests/train/pod.py", line' in traceback
    assert "lost process 1" in lines[0]


def test_processes_that_do_not_come_are_reported(tmp_path):
    port = free_port()
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--start_timeout=3"]
    codes, lines = pod(tmp_path, 1, 1, "1x1x1", flags=flags)
    assert codes == [EXIT_PEER_LOST]
    assert "toy: not all processes came within 3 s" in lines[0]


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        (
            "--num_processes=2",
            "many processes need an address, their number and an id: add --coordinator "
            "(or JAX_COORDINATOR_ADDRESS).",
        ),
        ("--profile=10..12", "profile: '10..12' is not like steps=10..12."),
    ],
)
def test_wrong_flag_is_one_sentence(tmp_path, flag, sentence):
    assert pod(tmp_path, 1, 1, "1x1x1", flags=[flag]) == ([1], [f"toy: {sentence}\n"])
