"""What a run keeps on disk: its config, its checkpoints, the orders its data was read in.

Every small file is written beside its place and renamed, so that a kill at any moment
leaves the old or the new one. Orbax does the same for checkpoints.
"""

import errno
import fcntl
import json
import os
import pathlib
import re
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import IO

from ml_collections import ConfigDict

from moshijax.pod import hosts
from moshijax.system.errors import UserError
from moshijax.system.files import check_output, replacing, unwritable
from moshijax.system.paths import local_path


# Keys that are free to change between starts: what is logged, kept, evaluated and tried again,
# where things lie, how the work is split. All others are of what is computed: a run keeps them,
# unless `--change` says otherwise.
FREE = re.compile(
    r"(log|eval|checkpoint)_every|final_sets|keep_checkpoints|max_rollbacks|read_ahead|profile"
    r"|change|evaluation\..*|mesh\..*|accumulate|vmem_kib|data\.(data_dir|threads)"
    r"|(model|student)\.(load|load_preset)|cache\.folder"
)
CONFIG = "config.json"
LOCK = ".lock"
NOT_A_FOLDER = (FileExistsError, NotADirectoryError)
# Errors of file systems without locks: there a run is trusted to be the only one.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
SHARED_WITHIN = 60  # Seconds in which a file on shared storage must be seen by all hosts.


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or none of it."""
    with replacing(path, "w") as file:
        file.write(text)


def _flat(config: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(config, dict):
        return {prefix: config}
    items = {}
    for key, value in config.items():
        items |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return items


def _changes(theirs: Mapping[str, object], mine: Mapping[str, object]) -> dict[str, str]:
    """What differs between two configs in what is computed: a clause for each key."""
    theirs, mine = _flat(theirs), _flat(mine)
    return {
        key: f"{key} was {theirs.get(key)!r}, is now {mine.get(key)!r}"
        for key in sorted(theirs.keys() | mine.keys())
        if theirs.get(key) != mine.get(key) and not FREE.fullmatch(key)
    }


def changes(workdir: pathlib.Path, config: ConfigDict) -> str:
    """What `--change` has changed of a run since its last start; empty if nothing."""
    path = workdir / CONFIG
    found = ""
    if hosts.is_main() and path.exists():
        found = "; ".join(_changes(json.loads(path.read_bytes()), _plain(config)).values())
    return hosts.broadcast(found)


def check(folder: str | pathlib.Path, config: ConfigDict) -> pathlib.Path:
    """Refuses a directory that a run of this config cannot use; every process calls this.

    Raises:
        UserError: it cannot be made or written in, or belongs to a run with another config, or the
            processes have different configs.
    """
    workdir = local_path("--workdir", folder)
    ours = _plain(config)
    text = json.dumps(ours)
    if odd := hosts.processes_where(hosts.broadcast(text) != text):
        raise UserError(
            f"processes {odd} have another config than process 0: start the same command on "
            "every host."
        )
    if problem := hosts.broadcast(_trouble(workdir, ours) if hosts.is_main() else ""):
        raise UserError(problem)
    return workdir


def _plain(config: ConfigDict) -> dict[str, object]:
    """A config as it is read from a file."""
    return json.loads(config.to_json(indent=1))


def _trouble(workdir: pathlib.Path, ours: Mapping[str, object]) -> str:
    """Why a run cannot go on in this directory, as the first process sees it."""
    path = workdir / CONFIG
    try:
        there = next(p for p in (workdir, *workdir.absolute().parents) if os.path.lexists(p))
        if not there.is_dir():
            raise FileExistsError
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if path.exists():
            check_output(path)
        theirs = json.loads(path.read_bytes()) if path.exists() else ours
        if not isinstance(theirs, dict):
            raise ValueError("it is no object")
    except UserError as error:
        return f"--workdir: {error}"
    except OSError as error:
        return str(_unusable(workdir, error))
    except ValueError as error:
        return (
            f"{path} is damaged ({error}): delete it if the run in {workdir} is of this config, "
            "or take another --workdir."
        )
    change = ours.get("change")
    told = {str(c).partition("=")[0] for c in change} if isinstance(change, list) else set()
    odd = {key: text for key, text in _changes(theirs, ours).items() if key not in told}
    if odd:
        key = next(iter(odd))
        return (
            f"{workdir} belongs to another config ({'; '.join(odd.values())}): take another "
            f"--workdir, or the config it was started with, or say that it is meant, as in "
            f"--change {key}={_flat(ours).get(key)}."
        )
    return ""


def _unusable(workdir: pathlib.Path, error: OSError) -> UserError:
    why = "is a file, or lies under one" if isinstance(error, NOT_A_FOLDER) else error.strerror
    return UserError(
        f"--workdir: {workdir} cannot be used ({why}): name a folder that can be written."
    )


def make(workdir: pathlib.Path) -> None:
    """Makes the directory; every process calls this.

    Raises:
        UserError: it cannot be made.
    """
    problem = ""
    if hosts.is_main():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = str(_unusable(workdir, error))
    if problem := hosts.broadcast(problem):
        raise UserError(problem)


def is_claimed(workdir: pathlib.Path) -> bool:
    """Whether a run has done something here."""
    return (workdir / CONFIG).exists()


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config into the directory: from here on no other config may use it."""
    if hosts.is_main():
        write_text(workdir / CONFIG, json.dumps(_plain(config), indent=1) + "\n")


@contextmanager
def locked(workdir: pathlib.Path) -> Generator[None]:
    """Makes the directory and keeps other runs out, until this process ends in whatever way.

    Raises:
        UserError: there is another run, or the processes do not see the same directory.
    """
    make(workdir)
    path = workdir / LOCK
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "of": time.time_ns()})
    token, problem = hosts.broadcast(mine), ""
    with open(path, "a") if hosts.is_main() else nullcontext() as file:
        if file is not None:
            problem = _take(file, path, token)
        if problem := hosts.broadcast(problem):
            raise UserError(problem)
        _check_shared(path, token)
        yield


def _take(file: IO[str], path: pathlib.Path, token: str) -> str:
    """Locks a file and writes into it who did; else says who has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = re.search(r'"host": "(.*)", "pid": (\d+)', path.read_text(errors="replace"))
        who = f"process {found[2]} on {found[1]}" if found else "another process"
        return (
            f"{path.parent} is in use by {who}: wait for it or stop it, or take another "
            f"--workdir; if that process is gone for certain, delete {path}."
        )
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        file.truncate(0)
        file.write(token)
        file.flush()
    except OSError as error:
        return f"--workdir: {unwritable(path, error)}"
    return ""


def _check_shared(path: pathlib.Path, text: str) -> None:
    """Every process must see what the first wrote; shared storage may take a while."""
    until = time.monotonic() + SHARED_WITHIN
    while not (seen := path.exists() and path.read_text() == text) and time.monotonic() < until:
        time.sleep(1)
    if blind := hosts.processes_where(not seen):
        raise UserError(
            f"{path.parent} is not the same directory for processes {blind} and process 0: put "
            "--workdir on storage that all hosts share."
        )


class DataOrder:
    """Which shuffling each stretch of the run reads: another one after every rollback."""

    def __init__(self, workdir: pathlib.Path) -> None:
        self._path = workdir / "orders.json"
        self._starts: list[int] = hosts.broadcast_json(self._read() if hosts.is_main() else [])
        if not self._starts:
            raise UserError(
                f"{self._path} is damaged: put a copy of it in its place, or delete it to go on in "
                "the order that a run begins with."
            )

    def _read(self) -> list[int]:
        """The steps after which each order begins; nothing if the file is damaged."""
        if not self._path.exists():
            return [0]
        try:
            found = json.loads(self._path.read_bytes())
        except ValueError:
            return []
        whole = isinstance(found, list) and all(type(step) is int for step in found)
        return found if whole and found[:1] == [0] else []

    @property
    def rollbacks(self) -> int:
        """How often the run was rolled back so far."""
        return len(self._starts) - 1

    def at(self, step: int) -> int:
        """The order that this step's batch is read in: the last that begins before it."""
        return max(order for order, start in enumerate(self._starts) if start < step or order == 0)

    def renew(self, step: int) -> None:
        """From after `step` on, reads in an order not used before."""
        self._starts.append(step)
        if hosts.is_main():
            write_text(self._path, json.dumps(self._starts))
