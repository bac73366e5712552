import os
import subprocess
import sys
import time

import pytest

from tests.system.work import ENVIRONMENT, assert_whole, start


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
def test_what_a_terminal_cannot_show_is_written_as_an_escape(tmp_path, environment, text):
    process = start(
        tmp_path, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"said\n")
    assert out == (text + b" ") * 20_000 + b"\n"
    assert_whole(tmp_path)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_leaves_does_not_end_the_work(tmp_path, name):
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {name: writer}
    process = start(tmp_path, **streams)
    os.close(writer)
    assert process.wait() == 0
    assert_whole(tmp_path)


def test_a_terminal_that_is_not_ready_is_waited_for(tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = start(
        tmp_path, stdout=writer, stderr=subprocess.DEVNULL, environment={"PYTHONUTF8": "1"}
    )
    os.close(writer)
    text = " ".join(["d\xe9j\xe0"] * 20_000) + " \n"
    with open(reader, encoding="utf-8") as file:
        time.sleep(0.3)  # The pipe holds less than the text.
        assert file.read() == text
    assert process.wait() == 0
    assert_whole(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_found_no_room_is_told_after_the_work(tmp_path):
    with open("/dev/full", "w") as full:
        process = start(tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
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
