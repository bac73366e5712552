import json
import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.nn.paths import named_leaves
from moshijax.pod import hosts
from moshijax.pod.hosts import Stopped
from moshijax.system.errors import UserError
from moshijax.train import loop, workdir
from moshijax.train.log import read_metrics
from moshijax.train.workdir import DataOrder
from tests.train.toy import ToyData, ToyEval, ToyTask, config, make_with


def run(workdir, data=None, **changes):
    c = config(**changes)
    data = data or ToyData(c.batch_size)
    return loop.train(c, make_with(data, {"test": ToyEval(c.batch_size)}), str(workdir))


def assert_equal(a, b, **tolerance):
    for (name, x), y in zip(named_leaves(a).items(), named_leaves(b).values(), strict=True):
        if tolerance:
            np.testing.assert_allclose(x, y, err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def stopped_at(step, workdir, **changes):
    """A run that is asked to stop by SIGTERM while it reads this step."""
    with pytest.raises(Stopped):
        run(workdir, ToyData(16, interrupted_at=step), read_ahead=1, **changes)


def test_loss_falls_and_is_logged(whole):
    rows = read_metrics(whole[0] / "metrics.jsonl")
    train = [r for r in rows if r["kind"] == "train"]
    evals = [r for r in rows if r["kind"] == "eval"]
    assert [r["step"] for r in train] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in evals] == [6, 12]
    assert train[-1]["loss"] < train[0]["loss"]
    assert all(r["pairs_per_s"] > 0 and 0 < r["mfu"] < 1 for r in train)
    assert list(train[0])[2] == "loss"
    assert np.isfinite(evals[-1]["test/loss"])
    assert list(whole[0].glob("events.out.tfevents*"))


def test_final_sets_wait_for_the_last_step(tmp_path):
    run(tmp_path, final_sets=("test",))
    evals = [r for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "eval"]
    assert [r["step"] for r in evals] == [12]


def test_sigterm_saves_and_resume_is_bitwise(whole, tmp_path):
    _, state = whole
    before = signal.getsignal(signal.SIGTERM)
    stopped_at(5, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped as asked" in read_metrics(tmp_path / "metrics.jsonl")[-1]["message"]
    assert_equal(run(tmp_path), state)
    steps = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_second_invocation_says_that_it_is_done(whole):
    workdir, state = whole
    assert_equal(run(workdir), state)
    assert read_metrics(workdir / "metrics.jsonl")[-1]["message"] == "this run is done already."


KILLED = """
import sys
from tests.train.test_loop import run
import os, signal
from tests.train.toy import ToyData

class Deadly(ToyData):
    def batch(self, step, order=0, rows=None):
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, order, rows)

run(sys.argv[1], Deadly(), checkpoint_every=1)
"""


@pytest.mark.parametrize("deaths", [(4, 9)])
def test_resume_after_kill_is_bitwise(whole, tmp_path, deaths):
    env = os.environ | {"PYTHONPATH": ".", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    for step in deaths:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(step)]
        assert subprocess.run(command, env=env).returncode == -signal.SIGKILL
    with jax.default_matmul_precision("highest"):
        assert_equal(run(tmp_path, checkpoint_every=1), whole[1])


def test_eight_devices_equal_one(whole, tmp_path):
    c = config(mesh=dict(data=2, fsdp=2, tensor=2))
    sharded = loop.train(c, make_with(ToyData(), {}), str(tmp_path / "8"))
    assert sharded.model["head"]["kernel"].sharding.spec == jax.P("tensor", "fsdp")
    with jax.default_device(jax.devices()[0]):
        task, state = ToyTask(config()), None
        state = task.init(jax.random.key(0))
        for step in range(1, 13):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), step)
            state, _ = task.update("pairs", state, task.frozen, ToyData().batch(step), key)
    assert_equal(sharded, state, rtol=1e-6, atol=1e-6)


def test_accumulated_gradients_equal_whole_ones(whole, tmp_path):
    assert_equal(run(tmp_path, accumulate=4).model, whole[1].model, rtol=2e-5, atol=1e-6)


def test_rollback_takes_another_order_and_says_so(tmp_path):
    state = run(tmp_path, ToyData(poisoned=[(5, 0)]))
    events = [
        r["message"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "event"
    ]
    assert any("going back to step 3 with another data order (1 of at most 2)" in e for e in events)
    assert DataOrder(tmp_path).rollbacks == 1
    assert [DataOrder(tmp_path).at(s) for s in (1, 3, 4, 12)] == [0, 0, 1, 1]
    assert np.isfinite(state.model["head"]["kernel"]).all()


def test_rolled_back_run_resumes_bitwise(tmp_path):
    whole = run(tmp_path / "whole", ToyData(poisoned=[(5, 0)]))
    stopped = ToyData(poisoned=[(5, 0)], interrupted_at=8)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", stopped, read_ahead=1)
    assert_equal(run(tmp_path / "parts", ToyData(poisoned=[(5, 0)])), whole)


def test_too_many_rollbacks_stop_the_run(tmp_path):
    always = [(5, order) for order in range(9)]
    with pytest.raises(UserError, match=r"after 2 other data orders .max_rollbacks=2."):
        run(tmp_path, ToyData(poisoned=always))


def test_an_infinite_gradient_is_divergence_though_the_loss_is_finite(tmp_path):
    class Steep(ToyTask):
        def update(self, kind, state, frozen, batch, key):
            state, metrics = super().update(kind, state, frozen, batch, key)
            bad = batch["x"][0, 0] == 1e7
            return state, metrics | {"grad_norm": jnp.where(bad, jnp.inf, metrics["grad_norm"])}

    class Rare(ToyData):
        def batch(self, step, order=0, rows=None):
            batch = super().batch(step, order, rows)
            if (step, order) == (5, 0):
                batch["x"][0, 0] = 1e7
            return batch

    c = config(num_steps=6)
    loop.train(c, make_with(Rare(), {}, task=Steep), str(tmp_path))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert any("a gradient is not finite" in r.get("message", "") for r in rows)


def test_work_directory_of_another_config_is_refused(whole):
    with pytest.raises(ValueError, match=r"seed was 0, is now 1.*take another --workdir"):
        run(whole[0], seed=1)
    saved = json.loads((whole[0] / "config.json").read_text())
    assert saved["seed"] == 0
    run(whole[0], log_every=5)  # How often it speaks is not part of the experiment.


def test_processes_with_different_configs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "broadcast", lambda text: text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match=r"processes \[0\] have another config than process 0"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_work_directory_that_another_host_does_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "SHARED_WITHIN", 0)
    monkeypatch.setattr(workdir, "_take", lambda *_: "")  # As on another host's disk.
    with pytest.raises(ValueError, match=r"not the same directory for processes \[0\] and process"):
        run(tmp_path)


def test_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size: 12 rows do not divide among 8 devices"):
        run(tmp_path, batch_size=12)


def test_data_error_stops_the_run_with_its_own_message(tmp_path):
    class Broken(ToyData):
        def batch(self, step, order=0, rows=None):
            raise ValueError("row 7 of x is corrupt")

    with pytest.raises(ValueError, match="row 7"):
        run(tmp_path, Broken())


def test_what_is_loaded_is_read_before_anything_is_compiled(tmp_path, monkeypatch):
    def missing(mesh):
        raise UserError("there is no such file")

    monkeypatch.setattr(loop, "place", None)
    with pytest.raises(UserError, match="there is no such file"):
        loop.train(config(), make_with(ToyData(), {}, missing), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_the_mesh_does_not_divide_is_said_once(tmp_path):
    run(tmp_path, mesh=dict(data=1, fsdp=1, tensor=8), num_steps=3)
    said = (tmp_path / "log.txt").read_text()
    assert said.count("mesh.tensor=8 does not divide 4 of ") == 1
    assert "model/head/kernel" in said


@pytest.mark.parametrize(
    "data", [dict(interrupted_at=5), dict(poisoned=[(5, k) for k in range(9)])]
)
def test_a_run_that_ended_early_leaves_no_thread_and_no_file_open(tmp_path, data):
    run(tmp_path / "first", num_steps=3)  # What a process opens once.
    threads, files = set(threading.enumerate()), os.listdir("/proc/self/fd")
    # The error holds the frames that it came through.
    with pytest.raises((Stopped, UserError)) as caught:
        run(tmp_path / "run", ToyData(16, **data), read_ahead=4, num_steps=100)
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads, caught
    assert len(os.listdir("/proc/self/fd")) <= len(files)
