import functools
import json
import pathlib
import subprocess
import sys

import pytest

from moshijax.system.errors import UserError
from moshijax.train import loop, workdir
from moshijax.train.log import read_metrics
from moshijax.train.workdir import DataOrder
from tests.train.test_loop import run
from tests.train.toy import ToyData, config, make_with


ROOT = pathlib.Path(__file__).parent.parent.parent


class Broken(ToyData):
    def batch(self, step, order=0, rows=None):
        raise ValueError("row 7 of x is corrupt")


def initial(mesh):
    raise UserError("model.load: there is no such file")


def test_a_run_that_fails_at_its_start_leaves_the_directory_to_the_corrected_one(tmp_path):
    with pytest.raises(ValueError, match="row 7"):
        run(tmp_path, Broken())
    c = config(seed=1)
    with pytest.raises(UserError, match="no such file"):
        loop.train(c, make_with(ToyData(), {}, initial), str(tmp_path))
    with pytest.raises(UserError, match="are not steps of this run"):
        run(tmp_path, seed=2, profile="steps=50")
    assert not (tmp_path / "config.json").exists()
    run(tmp_path, seed=3, num_steps=4)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


def test_a_run_claims_its_directory_with_the_first_step(tmp_path):
    class Late(ToyData):
        def batch(self, step, order=0, rows=None):
            if step == 3:
                raise ValueError("row 7 of x is corrupt")
            return super().batch(step, order, rows)

    with pytest.raises(ValueError, match="row 7"):
        run(tmp_path, Late(), read_ahead=1)
    with pytest.raises(
        UserError, match=r"another config \(seed was 0, is now 1\).*--change seed=1"
    ):
        run(tmp_path, seed=1)


def test_a_directory_that_is_none_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, file / "below"):
        with pytest.raises(UserError, match=f"^--workdir: {path} cannot be used .is a file, or"):
            run(path)
    with pytest.raises(UserError, match=r"^--workdir: /proc/nowhere cannot be used \(.*\): name a"):
        run("/proc/nowhere")
    with pytest.raises(UserError, match=r"^--workdir: .* cannot be used \(File name too long\)"):
        run(tmp_path / ("x" * 300))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"^--workdir: .*config.json is a folder"):
        run(tmp_path)


def test_a_url_is_refused_and_no_folder_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--workdir: 'gs://lab-runs/x' is a URL.*mount"):
        run("gs://lab-runs/x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": 0', "\0"])
def test_a_damaged_config_is_told_and_kept(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is damaged .*: delete it if the run in"):
        run(tmp_path)
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize("text", ["", "[0, 5", "{}", "[]", "[3]", "[0, null]", "[0, 1.5]"])
def test_damaged_orders_are_told(tmp_path, text):
    (tmp_path / "orders.json").write_text(text)
    with pytest.raises(UserError, match=r"orders.json is damaged: put a copy of it"):
        DataOrder(tmp_path)


HOLDER = """
import pathlib, sys, time
from moshijax.train.workdir import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_two_runs_are_not_in_one_directory_at_once(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    used = rf"is in use by process {holder.pid} on .*: wait for it"
    with pytest.raises(UserError, match=used), workdir.locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with workdir.locked(tmp_path):
        pass
    with workdir.locked(tmp_path):
        pass


def test_storage_without_locks_is_trusted(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(workdir.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with workdir.locked(tmp_path):
        pass


def test_a_log_cut_short_or_mixed_with_rubbish_is_gone_on_with(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'12\n{"step": 1}\n\xff\xfe\n{"step": 0, "kind": "event", "message": "x"}\n{"ste'
    )
    assert read_metrics(path) == [{"step": 0, "kind": "event", "message": "x"}]
    run(tmp_path, num_steps=4)
    assert [r["step"] for r in read_metrics(path)] == [0, 2, 4, 4]


def test_what_is_free_may_differ_at_every_start(tmp_path):
    go = functools.partial(loop.train, make=make_with(ToyData(), {}), folder=str(tmp_path))
    go(config(num_steps=3))
    again = dict(max_rollbacks=7, log_every=1, mesh=dict(data=2, fsdp=4), accumulate=2)
    go(config(num_steps=3, **again))


def test_a_change_that_is_meant_goes_on_and_is_recorded_once(tmp_path):
    go = functools.partial(loop.train, make=make_with(ToyData(), {}), folder=str(tmp_path))
    go(config(num_steps=4))
    longer = config(num_steps=6)
    longer.optimizers.model.learning_rate = 0.01
    with pytest.raises(
        UserError, match=r"num_steps was 4, is now 6; optimizers.*--change num_steps=6"
    ):
        go(longer)
    longer.change = ("num_steps=6", "optimizers.model.learning_rate=0.01")
    for _ in range(2):
        state = go(longer)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert int(state.optimizer.count) == 6
    assert [r["message"] for r in rows if "changed" in r.get("message", "")] == [
        "changed: num_steps was 4, is now 6; optimizers.model.learning_rate was 0.05, is now 0.01."
    ]
    assert rows[-2]["learning_rate"] <= 0.01
