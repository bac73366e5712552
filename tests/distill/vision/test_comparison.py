"""The comparison's runs are processes of their own, here stand-ins for them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest


ROOT = pathlib.Path(__file__).parent.parent.parent.parent
# A teacher is done at once, or fails; a student goes on until it is asked to stop.
RUN = """
import os, pathlib, signal, sys
path, code = pathlib.Path(sys.argv[1]), int(sys.argv[2])
if path.name == "teacher" or code:
    sys.exit(code)
def save(*_):
    path.with_suffix(".saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").replace(path.with_suffix(".pid"))
while True:
    signal.pause()
"""
QUICKSTART = f"""
import os, sys
from distill import quickstart
from distill.vision import comparison
def command(arm, workdir):
    code = "3" if arm == os.environ.get("FAILING") else "0"
    return [sys.executable, "-c", {RUN!r}, str(workdir / arm), code]
comparison.command = command
quickstart.run()
"""
AT_ONCE = min(len(os.sched_getaffinity(0)), 4)


def start(workdir, **environment):
    with (workdir / "told.txt").open("w") as told:
        return subprocess.Popen(
            [sys.executable, "-c", QUICKSTART, "--workdir", str(workdir)],
            cwd=ROOT,
            env=os.environ | environment,
            stderr=told,
        )


def wait_for_runs(folder, number):
    until = time.monotonic() + 120
    while len(list(folder.glob("*.pid"))) < number:
        assert time.monotonic() < until, "no run was started"
        time.sleep(0.05)


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def end(folder, process):
    """Kills what a failure leaves behind; the runs that were alive."""
    process.kill()
    process.wait()
    numbers = [int(path.read_text()) for path in folder.glob("*.pid")]
    alive = [number for number in numbers if is_alive(number)]
    for number in alive:
        os.kill(number, signal.SIGKILL)
    return alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_runs_after_they_have_saved_and_starts_no_more(number, tmp_path):
    process = start(tmp_path)
    try:
        wait_for_runs(tmp_path, AT_ONCE)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        orphans = end(tmp_path, process)
    assert not orphans
    started = {path.stem for path in tmp_path.glob("*.pid")}
    assert len(started) == AT_ONCE
    assert {path.stem for path in tmp_path.glob("*.saved")} == started


def test_a_run_that_fails_ends_the_others(tmp_path):
    process = start(tmp_path, FAILING="labels")
    try:
        code = process.wait(60)
    finally:
        orphans = end(tmp_path, process)
    assert code == 1
    assert "the run of arm 'labels'" in (tmp_path / "told.txt").read_text()
    assert not orphans
