"""A command that writes a file while it talks, started by `launch` in a process of its own."""

import os
import pathlib
import subprocess
import sys


ENVIRONMENT = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent.parent)}
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


def start(folder, seconds=0, change="", environment=(), **options):
    """Starts it in a folder; `change` runs before it, and it sleeps before the file is whole."""
    (folder / "work.py").write_text(WORK)
    line = "from moshijax.system.launch import launch; launch('work:main', 'work: interrupted')"
    return subprocess.Popen(
        [sys.executable, "-c", change + line, str(seconds)],
        cwd=folder,
        env=ENVIRONMENT | dict(environment),
        **options,
    )


def assert_whole(folder):
    """The file is there, and nothing of an unfinished one."""
    assert (folder / "work.bin").read_bytes() == b"whole"
    assert {path.name for path in folder.iterdir()} <= {"work.py", "work.bin", "__pycache__"}
