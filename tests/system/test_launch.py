import signal
import subprocess
import sys

import pytest

from tests.system.work import ENVIRONMENT, assert_whole, start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_by_a_signal_is_one_line_and_leaves_nothing_half_written(tmp_path, number):
    process = start(tmp_path, 60, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
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


def test_work_under_nohup_outlives_its_terminal(tmp_path):
    change = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(
        tmp_path, 0.5, change, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "said\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert_whole(tmp_path)
