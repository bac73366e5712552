"""Files that are written whole or not at all."""

import errno
import os
import pathlib
import secrets
import signal
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

from moshijax.system.errors import UserError


ENDING = (signal.SIGTERM, signal.SIGHUP)
REASONS = {
    errno.ENOSPC: "the disk of {folder} is full; free some space on it",
    errno.EDQUOT: "your quota on the disk of {folder} is used up; free some space on it",
    errno.EFBIG: "it would be larger than the disk of {folder} or `ulimit -f` allows; write "
    "elsewhere or raise the limit",
    errno.EROFS: "the disk of {folder} is mounted read-only; write elsewhere",
    errno.EACCES: "you may not write in {folder}; change its permissions or write elsewhere",
    errno.EPERM: "you may not write in {folder}; change its permissions or write elsewhere",
    errno.ENOENT: "there is no folder {folder}; make it first",
    errno.ENOTDIR: "{folder} is no folder; give another path",
    errno.ENAMETOOLONG: "its name is too long; give a shorter one",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of fsync on a folder where the file system has none, or not for this user.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM)

_partial: set[pathlib.Path] = set()
os.register_at_fork(after_in_child=_partial.clear)  # They are the parent's to remove.


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Generator[IO[Any]]:
    """Opens a file beside `path` that takes its place at the end, unless something fails.

    What is there keeps its permissions, and a link to it stays one. When it ends, the new content
    is on the disk. An interrupt, SIGTERM or SIGHUP before that leaves nothing behind.

    Raises:
        UserError: the file cannot be written there, or the disk is full.
    """
    check_output(path)
    target = pathlib.Path(os.path.realpath(path))
    # A name has at most 255 bytes. On shared storage another host may write the same file.
    name = os.fsencode(target.name)[:200].decode(errors="ignore")
    beside = target.with_name(f".{name}.{secrets.token_hex(8)}")
    try:
        with (
            _removed_if_ended(beside),
            open(beside, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file,
        ):
            _keep_mode(target, file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            beside.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        # An error that names another file is the caller's; so is one without a name, unless it is
        # that of a full disk.
        ours = error.filename is None or os.fspath(error.filename) == os.fspath(beside)
        if not ours or (error.filename is None and error.errno not in FULL):
            raise
        raise unwritable(path, error) from error


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises if no file can be written under this name."""
    target = pathlib.Path(os.path.realpath(path))
    try:
        found = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            folder = target.parent if os.path.islink(path) else pathlib.Path(path).parent
            raise UserError(f"{path}: there is no folder {folder}; make it first") from None
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise unwritable(path, PermissionError(errno.EACCES, "")) from None
        return
    except OSError as error:
        raise unwritable(path, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a folder; give the name of a file")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is a pipe or a device; give the name of a file")
    if not os.access(target, os.W_OK):
        raise UserError(f"{path} is there and write-protected; give another name")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise unwritable(path, PermissionError(errno.EACCES, ""))


def check_distinct(output: str | os.PathLike[str], *sources: str | os.PathLike[str] | None) -> None:
    """Raises if a file is to be written over one that is read, by whatever name or link.

    `-` is the standard input; what is no file, such as the name of one on a hub, is none of them.
    """
    for source in sources:
        try:
            same = os.path.samestat(os.stat(0 if source == "-" else source or ""), os.stat(output))
        except (OSError, ValueError):
            continue
        if same:
            raise UserError(
                f"{output} is the file that is read as {source}, and would be overwritten; give "
                "another name"
            )


def unwritable(path: str | os.PathLike[str], error: OSError) -> UserError:
    """Returns what to tell a user about a file that could not be written."""
    why = REASONS.get(error.errno or 0, error.strerror or str(error))
    folder = pathlib.Path(os.path.realpath(path)).parent
    return UserError(f"{path} cannot be written: {why.format(folder=folder)}")


@contextmanager
def _removed_if_ended(path: pathlib.Path) -> Generator[None]:
    """Removes the file at the end if it is still there, also when a signal ends the process."""
    _partial.add(path)
    # Only default handlers are replaced: the training loop, for one, has handlers of its own.
    free = threading.current_thread() is threading.main_thread()
    taken = [n for n in ENDING if free and signal.getsignal(n) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, _remove_and_end)
        yield
    finally:
        path.unlink(missing_ok=True)
        _partial.discard(path)
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def discard_partial() -> None:
    """Removes half-written files; call it before `os._exit`, which skips all clean-up."""
    for path in list(_partial):
        path.unlink(missing_ok=True)


def _remove_and_end(number: int, _: FrameType | None) -> None:
    discard_partial()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _keep_mode(target: pathlib.Path, number: int) -> None:
    if target.exists():
        mode = stat.S_IMODE(target.stat().st_mode)
        if mode != stat.S_IMODE(os.fstat(number).st_mode):
            os.fchmod(number, mode)


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes the rename durable: fsync of the folder."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # A folder that may be written but not read.
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(number)
