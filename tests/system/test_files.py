import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys
import textwrap
from unittest.mock import Mock

import pytest

from moshijax.system.errors import UserError
from moshijax.system.files import check_distinct, replacing


ROOT = pathlib.Path(__file__).parent.parent.parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_at_the_end(tmp_path):
    path = tmp_path / "x.txt"
    with replacing(path, "w") as file:
        file.write("wörter")
        assert not path.exists()
        assert len(names(tmp_path)) == 1
    assert path.read_bytes() == "wörter".encode()
    assert names(tmp_path) == ["x.txt"]


def fail(path, error):
    with replacing(path) as file:
        file.write(b"new")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_whatever_fails_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(error):
        fail(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_content_and_name_are_on_the_disk_at_the_end(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def watch(number):
        synced.append((stat.S_ISDIR(os.fstat(number).st_mode), (tmp_path / "x").exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watch)
    with replacing(tmp_path / "x") as file:
        file.write(b"new")
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_permissions_of_what_is_replaced_stay(tmp_path, mode):
    path = tmp_path / "x"
    path.touch()
    path.chmod(mode)
    with replacing(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "x")
    for text in (b"one", b"two"):  # The link leads nowhere at first.
        with replacing(link) as file:
            file.write(text)
    assert link.is_symlink()
    assert (tmp_path / "far" / "x").read_bytes() == b"two"
    assert names(tmp_path / "far") == ["x"]


def test_a_name_may_have_255_bytes_and_need_not_be_text(tmp_path):
    for name in (b"x" * 255, "ä".encode() * 127, b"caf\xe9" * 50):
        path = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        with replacing(path) as file:
            file.write(b"new")
        assert path.read_bytes() == b"new"


def test_where_no_file_can_be_is_told_in_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path, sentence in (
        (tmp_path, "is a folder; give the name of a file"),
        (tmp_path / "pipe", "is a pipe or a device; give the name of a file"),
        (pathlib.Path(os.devnull), "is a pipe or a device"),
        (tmp_path / "none" / "x", "there is no folder .*none; make it first"),
        (tmp_path / "file" / "x", "cannot be written: .*file is no folder"),
        (tmp_path / ("x" * 256), "its name is too long; give a shorter one"),
    ):
        with pytest.raises(UserError, match=sentence), replacing(path):
            pass
    assert names(tmp_path) == ["file", "pipe"]


def test_write_protected_files_and_folders_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")
    # Root may write everywhere, so the system's answer is played.
    for refused, sentence in ((tmp_path / "x", "write-protected"), (tmp_path, "you may not write")):
        monkeypatch.setattr(os, "access", lambda path, _, no=refused: pathlib.Path(path) != no)
        with pytest.raises(UserError, match=sentence), replacing(tmp_path / "x"):
            pass
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "x cannot be written: the disk of .* is full"),
        (errno.EDQUOT, "x cannot be written: your quota on the disk of .* is used up"),
    ],
)
@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_is_named(tmp_path, monkeypatch, number, sentence, where):
    error = OSError(number, "played")
    if where == "write":
        with pytest.raises(UserError, match=sentence):
            fail(tmp_path / "x", error)
    else:
        monkeypatch.setattr(os, "fsync", Mock(side_effect=error))
        with pytest.raises(UserError, match=sentence), replacing(tmp_path / "x"):
            pass
    assert names(tmp_path) == []


def test_failures_of_other_files_keep_their_own_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"), replacing(tmp_path / "x"):
        (tmp_path / "none").open()
    with pytest.raises(ConnectionError):
        fail(tmp_path / "x", ConnectionError(errno.ECONNRESET, "gone"))
    assert names(tmp_path) == []


def child(code, folder):
    """Starts Python on code that prints a line when it is ready."""
    code = f"import os, signal, sys, time\nfrom moshijax.system.files import replacing\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_no_hidden_file(tmp_path, number):
    code = """
        with replacing("x", "w") as a, replacing("y", "w") as b:
            a.write("half")
            print(len(os.listdir()), flush=True)
            time.sleep(60)
    """
    process = child(textwrap.dedent(code), tmp_path)
    assert process.stdout.readline() == "2\n"
    process.send_signal(number)
    process.communicate()
    assert process.returncode == -number
    assert names(tmp_path) == []


def test_handlers_of_others_and_files_of_a_parent_are_left_alone(tmp_path):
    code = """
        with replacing("x", "w") as file:
            child = os.fork()
            if not child:
                os.kill(os.getpid(), signal.SIGTERM)
            os.waitpid(child, 0)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
        with replacing("y", "w") as file:
            os.kill(os.getpid(), signal.SIGTERM)
    """
    process = child(textwrap.dedent(code), tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "asked\n", "")
    assert names(tmp_path) == ["x", "y"]


def test_no_output_is_an_input_by_whatever_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x"
    path.touch()
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "other").touch()
    for name in ("x", "./x", "../" + tmp_path.name + "/x", "soft", "hard", path):
        with pytest.raises(UserError, match=f"^{name} is the file that is read as x, and would be"):
            check_distinct(name, None, "hf://owner/repository/x", "none", "x")
    check_distinct("other", "x")
    check_distinct("new", "x", "-")


def test_the_standard_input_is_not_overwritten_either(tmp_path):
    (tmp_path / "x").touch()
    code = "from moshijax.system.files import check_distinct; check_distinct('x', '-')"
    with open(tmp_path / "x") as file:
        process = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=file,
            capture_output=True,
            text=True,
        )
    assert "UserError: x is the file that is read as -, and would be overwritten" in process.stderr
