import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.cli.terminal import complaining
from moshijax.system.errors import UserError


ROOT = pathlib.Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
WORK = """
import sys, time
from moshijax.system.files import replacing

def main():
    print("d\\xe9j\\xe0 " * 20_000, flush=True)
    with replacing("work.bin") as file:
        file.write(b"whole")
        print("said", file=sys.stderr, flush=True)
        time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def work(tmp_path):
    """Starts a command that writes a file while it talks."""
    (tmp_path / "work.py").write_text(WORK)
    line = "from moshijax.system.launch import launch; launch('work:main', 'work: interrupted')"

    def start(seconds=0, change="", environment=(), **options):
        return subprocess.Popen(
            [sys.executable, "-c", change + line, str(seconds)],
            cwd=tmp_path,
            env=ENVIRONMENT | dict(environment),
            **options,
        )

    return start


def assert_whole(folder):
    assert (folder / "work.bin").read_bytes() == b"whole"
    assert {path.name for path in folder.iterdir()} <= {"work.py", "work.bin", "__pycache__"}


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"d\xe9j\xe0"),
        ({"PYTHONIOENCODING": "latin-1"}, "déjà".encode("latin-1")),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, rb"d\xe9j\xe0"),
        ({"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}, "déjà".encode()),
    ],
    ids=str,
)
def test_what_a_terminal_cannot_show_is_written_as_an_escape(work, tmp_path, environment, text):
    process = work(environment=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"said\n")
    assert out == (text + b" ") * 20_000 + b"\n"
    assert_whole(tmp_path)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_leaves_does_not_end_the_work(work, tmp_path, name):
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {name: writer}
    process = work(**streams)
    os.close(writer)
    assert process.wait() == 0
    assert_whole(tmp_path)


def test_a_terminal_that_is_not_ready_is_waited_for(work, tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = work(stdout=writer, stderr=subprocess.DEVNULL, environment={"PYTHONUTF8": "1"})
    os.close(writer)
    text = " ".join(["d\xe9j\xe0"] * 20_000) + " \n"
    with open(reader, encoding="utf-8") as file:
        time.sleep(0.3)  # The pipe holds less than the text.
        assert file.read() == text
    assert process.wait() == 0
    assert_whole(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_found_no_room_is_told_after_the_work(work, tmp_path):
    with open("/dev/full", "w") as full:
        process = work(stdout=full, stderr=subprocess.PIPE, text=True)
        _, err = process.communicate()
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("work: standard output was cut short (No space left on device)")
    assert "Traceback" not in err
    assert_whole(tmp_path)


@pytest.mark.parametrize("closed", [(0, 1, 2), (1,), (2,), (0, 2)])
def test_a_closed_stream_does_not_lend_its_number_to_a_file(tmp_path, closed):
    # What C libraries write to standard error would be in the file.
    path = tmp_path / "numbers"
    command = f"""
import os, sys
from moshijax.system import stdio
for number in {closed}:
    setattr(sys, ("stdin", "stdout", "stderr")[number], os.close(number))
stdio.settle()
with open({str(path)!r}, "w") as file:
    print("said", file=sys.stderr, flush=True)
    os.write(2, b"said by C")
    file.write(str(file.fileno() > 2))
"""
    subprocess.run([sys.executable, "-c", command], env=ENVIRONMENT, check=True)
    assert path.read_text() == "True"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_by_a_signal_is_one_line_and_leaves_nothing_half_written(work, tmp_path, number):
    process = work(60, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "said\n"
    process.send_signal(number)
    assert process.communicate()[1] == "work: interrupted\n"
    assert process.returncode == 128 + number
    assert {path.name for path in tmp_path.iterdir()} <= {"work.py", "__pycache__"}


@pytest.mark.parametrize(
    "program",
    ["moshijax.train", "moshijax.codec", "moshijax.lm.run", "moshijax.export", "moshijax.preflight",
     "distill", "distill.evaluate", "distill.quickstart", "moshijax"],
)  # fmt: skip
def test_every_command_is_ready_for_a_signal_before_jax_is_imported(program):
    words = ["codec"] if program == "moshijax" else []
    line = f"""
import runpy, signal, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "jax":
            signal.raise_signal(signal.SIGTERM)
sys.meta_path.insert(0, Watch())
sys.argv = ["x", *{words}]
runpy.run_module("{program}", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", line]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.strip().count("\n") == 0
    assert "interrupted" in done.stderr


def test_work_under_nohup_outlives_its_terminal(work, tmp_path):
    change = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = work(0.5, change, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "said\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x is\nwrong"), "work: x is wrong"),
        (FileNotFoundError(2, "No such file or directory", "x.wav"), "work: x.wav: No such file"),
        (OSError(28, "No space left on device", "x.npz"), "work: x.npz: No space left on device"),
    ],
)
def test_what_a_user_did_wrong_is_one_sentence(error, line):
    with pytest.raises(SystemExit) as end, complaining("work"):
        raise error
    assert str(end.value).startswith(line)
    assert "\n" not in str(end.value)


def mismatch():
    np.ones(2) + np.ones(3)


def misfit():
    jnp.ones((2, 3)) @ jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (mismatch, ValueError),
        (misfit, TypeError),
        (lambda: jnp.ones(4).reshape(3), TypeError),
        (lambda: jnp.concatenate([]), ValueError),
        (lambda: int("x"), ValueError),
        (lambda: "\udce9".encode(), UnicodeEncodeError),
        (lambda: {}["x"], KeyError),
        (lambda: os.write(-1, b""), OSError),  # Of no file that has a name.
    ],
)
def test_what_a_programmer_did_wrong_keeps_its_traceback(fail, kind):
    with pytest.raises(kind) as error, complaining("work"):
        fail()
    assert not isinstance(error.value, UserError)
