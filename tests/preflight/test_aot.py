import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from moshijax import shard
from moshijax.preflight import tables, topology
from moshijax.preflight.examine import examine
from moshijax.train.chips import CHIPS, find
from tests.preflight import stack


pytest.importorskip("libtpu")
pytestmark = pytest.mark.aot

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _as_a_run_compiles():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("name", ["v5e:4x4", "v5p:2x2x2"])
def test_memory_and_flops_are_those_of_a_hand_count(name):
    config = stack.get_config()
    config.layers, config.dim, config.mlp_dim, config.length = 128, 1024, 1024, 1024
    config.batch_size = 128
    slice_ = topology.parse(name)
    report = examine(config, slice_, name=name)
    weights = 2 * 128 * 1024 * 1024
    tokens = 128 * 1024
    # Forward, backward twice; recomputed is what leads to the second product, which is the first.
    assert report.flops.model == pytest.approx(6 * weights * tokens, rel=0.01)
    assert report.flops.executed == pytest.approx(7 * weights * tokens, rel=0.01)
    state = 3 * 4 * weights / slice_.chips  # Weights and two moments in float32.
    batch = 4 * tokens * 1024 / slice_.chips
    kept = 2 * 128 * tokens * 1024 / slice_.chips  # The input of every layer in bfloat16.
    assert report.fits
    assert report.notes == []  # Donation took effect.
    assert report.usage.arguments == pytest.approx(state + batch, rel=0.01)
    assert report.usage.needed == pytest.approx(state + batch + kept, rel=0.1)
    # Every gathered weight crosses fsdp: forward, and backward once more for each use.
    assert {c.axes for c in report.collectives} == {"fsdp"}
    received = sum(c.bytes for c in report.collectives)
    assert 2 * 2 * weights < received < 8 * 2 * weights
    assert report.time.compute < report.time.step
    assert report.time.mfu == pytest.approx(6 / 7 * report.time.compute / report.time.step)
    assert "stack.py" in tables.report_text(report)


@pytest.mark.parametrize("family", topology.FAMILIES)
def test_slices_of_the_table_are_those_that_libtpu_knows(family):
    for shape in CHIPS[family].topologies:
        slice_ = topology.parse(f"{family}:{shape}")
        if slice_.chips <= 256:
            found = topology.devices(slice_)
            assert len(found) == slice_.size
            assert find(found[0].device_kind) is slice_.chip
            assert shard.make_mesh(dict(data=2, fsdp=-1), found).shape["data"] == 2


def test_too_much_is_an_answer_with_remedies():
    config = stack.get_config()
    config.remat, config.batch_size = "none", 3200
    report = examine(config, topology.parse("v5e:2x2"))
    assert report.status == "does not fit"
    assert report.usage.needed > report.usage.available == pytest.approx(15.75 * 2**30)
    assert report.usage.largest[0].bytes > 2**30
    assert "stack.py" in report.usage.largest[0].source
    notes = " ".join(report.notes)
    assert "--config.remat=full" in notes
    assert "--config.accumulate=2" in notes


def test_a_slice_that_libtpu_does_not_know_still_has_memory_and_flops():
    strange = topology.parse("v5p:2x2x2")._replace(name="v5p:nonsense")
    report = examine(stack.get_config(), strange)
    assert report.status == "not compiled"
    assert "libtpu does not know v5p:nonsense" in report.notes[0]
    assert sum(s.chip_bytes for s in report.shares) == pytest.approx(12 * 2**26 / 8, rel=0.01)
    assert report.flops.model == pytest.approx(6 * 2**26 * 64 * 256)
    assert report.time.mfu > 0


def test_command_prints_one_report_and_no_noise(tmp_path):
    command = [
        *(sys.executable, "-m", "moshijax.preflight", "--topology", "v5e:2x2"),
        *("--config", "tests/preflight/stack.py", "--mesh", "data=2,fsdp=2"),
        *("--config.layers=2", "--price", "1.2", "--out", str(tmp_path)),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ("preflight: tests/preflight/stack.py layers=2 on v5e:2x2: compiling\n")
    assert "fits" in result.stdout
    assert "data=2 fsdp=2" in result.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert '"topology": "v5e:2x2"' in (tmp_path / "report.json").read_text()


def test_an_interrupt_ends_a_compilation(tmp_path):
    command = [
        *(sys.executable, "-m", "moshijax.preflight", "--topology", "v5p:4x4x4"),
        *("--config", "configs/moshi.py", "--out", str(tmp_path / "out")),
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        while not list(tmp_path.glob("preflight_*/*")):  # What the compiler writes at its start.
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)  # To its end the compilation takes minutes.
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[1:] == ["preflight: interrupted."]
    assert not list(tmp_path.glob("preflight_*"))
