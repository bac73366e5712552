"""The script that works on a host, here on this one."""

import os
import subprocess
import sys
import time

import pytest

from tests.tpu_scripts.cases import ROOT


SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(30)
"""


@pytest.fixture
def host(tmp_path):
    """Calls host.sh with a home of its own."""

    def call(*arguments):
        command = ["bash", ROOT / "tpu_scripts" / "host.sh", *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
        )

    return call


def wait_for(call, text):
    for _ in range(100):
        last = call()
        if text in last:
            return last
        time.sleep(0.1)
    raise AssertionError(last)


def report(host):
    return host("status").stdout.strip().partition(": ")[2]


def test_command_runs_in_the_background_and_leaves_its_code_and_lines(host, tmp_path):
    assert report(host) == "none"
    assert host("start", "bash", "-c", 'echo "$0"; exit 3', "two words").returncode == 0
    wait_for(lambda: report(host), "ended 3")
    assert (tmp_path / "run" / "log").read_text() == "two words\n"
    assert host("start", "true").returncode == 0
    wait_for(lambda: report(host), "ended 0")


def test_stop_lets_the_command_save(host, tmp_path):
    host("start", sys.executable, "-c", SAVES)
    log = tmp_path / "run" / "log"
    wait_for(log.read_text, "ready")
    assert report(host) == "running"
    assert host("start", "true").returncode == 1
    assert "asked to stop" in host("stop").stdout
    wait_for(lambda: report(host), "stopped 75")
    assert log.read_text() == "ready\nsaved\n"
    assert "nothing is running" in host("stop").stdout
    host("start", "true")
    wait_for(lambda: report(host), "ended 0")


def test_signal_to_everything_still_leaves_the_code(host, tmp_path):
    host("start", sys.executable, "-c", SAVES)
    wait_for((tmp_path / "run" / "log").read_text, "ready")
    # What a host does to all processes when it is switched off.
    subprocess.run(["kill", "-TERM", "--", f"-{(tmp_path / 'run' / 'pid').read_text().strip()}"])
    wait_for(lambda: report(host), "ended 75")


def test_host_that_was_switched_off_has_lost_the_command(host, tmp_path):
    host("start", "sleep", "30")
    pid = (tmp_path / "run" / "pid").read_text().strip()
    subprocess.run(["kill", "-KILL", "--", f"-{pid}"], check=True)
    wait_for(lambda: report(host), "ended 76")


def test_what_it_does_not_do_is_refused(host):
    for arguments in ((), ("begin",)):
        result = host(*arguments)
        assert result.returncode == 2
        assert result.stderr.endswith("--help lists what is.\n")
