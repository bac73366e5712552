import logging
import pathlib
import warnings

import pytest

from moshijax.train import notes


def record(path, level=logging.WARNING, name="absl"):
    return logging.LogRecord(name, level, str(path), 1, "text", None, None)


def test_the_terminal_shows_what_is_ours_and_what_is_fatal(monkeypatch):
    ours = pathlib.Path(notes.__file__)
    assert notes.is_ours(record(ours))
    assert notes.is_ours(record("/home/me/experiment.py"))
    library = "/env/lib/python3.11/site-packages/orbax/checkpoint/x.py"
    assert not notes.is_ours(record(library))
    assert not notes.is_ours(record(library, logging.ERROR))
    assert notes.is_ours(record(library, logging.CRITICAL))
    assert not notes.is_ours(record("/usr/lib/python3.11/warnings.py", name="py.warnings"))
    monkeypatch.setattr(notes, "ROOT", pathlib.Path("/env/lib/site-packages"))
    assert notes.is_ours(record("/env/lib/site-packages/moshijax/train/lm.py"))
    assert not notes.is_ours(record("/env/lib/site-packages/orbax/x.py"))


@pytest.fixture
def hushed():
    root = logging.getLogger()
    before, caught = list(root.handlers), warnings.showwarning
    shown = logging.StreamHandler()
    root.addHandler(shown)
    notes.hush()
    yield root
    logging.captureWarnings(False)
    for handler in root.handlers:
        handler.removeFilter(notes.is_ours)
    root.handlers[:] = before
    assert warnings.showwarning is caught


def test_libraries_speak_to_a_file_also_before_there_is_one(tmp_path, capsys, hushed):
    library = "/env/lib/python3.11/site-packages/orbax/checkpoint/x.py"
    hushed.handle(record(library))
    with notes.kept(tmp_path):
        hushed.handle(record(library, logging.ERROR))
        hushed.handle(record(notes.__file__))
    text = (tmp_path / "log.txt").read_text()
    assert [line.split()[2:4] for line in text.splitlines()] == [
        ["W", "absl"], ["E", "absl"], ["W", "absl"],
    ]  # fmt: skip
    assert capsys.readouterr().err.count("text") == 1


def test_a_run_without_such_lines_has_no_such_file(tmp_path):
    with notes.kept(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
