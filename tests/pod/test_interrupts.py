import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from moshijax.pod import interrupts


ROOT = pathlib.Path(__file__).parent.parent.parent
# What one call of C takes that gives up the interpreter's lock, as a compilation does.
LONG = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)'
RUN = f"""
import hashlib, pathlib, sys
from moshijax.system import files
from moshijax.pod import interrupts
interrupts.watch("toy")
with files.replacing(sys.argv[1] + "/half") as file:
    with interrupts.requests() as asked:
        print("ready", flush=True)
        {LONG}
"""
BARE = f"""
import hashlib
from moshijax.pod import interrupts
interrupts.watch("toy")
print("ready", flush=True)
{LONG}
"""


def started(text, *args):
    command = [sys.executable, "-c", text, *map(str, args)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("signals", "code"),
    [((signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM, signal.SIGTERM), 143),
     ((signal.SIGTERM, signal.SIGINT), 130)],
)  # fmt: skip
def test_the_second_signal_ends_a_long_call_at_once_with_one_line(tmp_path, signals, code):
    process = started(RUN, tmp_path)
    for number in signals:
        assert process.poll() is None
        process.send_signal(number)
        time.sleep(0.5)  # Two of a kind at the same moment are one.
    said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert said == "toy: interrupted: the same command goes on from the newest checkpoint.\n"
    assert not list(tmp_path.iterdir())


def test_before_there_is_anything_to_save_the_first_signal_ends_it():
    process = started(BARE)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "toy: interrupted.\n"
    assert process.returncode == 130


def test_requests_leave_the_handlers_as_they_were():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.requests() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 10
        while not asked() and time.monotonic() < until:
            time.sleep(0.01)
        assert asked()
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    with interrupts.requests() as asked:
        assert not asked()
