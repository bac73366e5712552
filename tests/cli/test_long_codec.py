import io
import pathlib
import runpy
import signal
import sys
import tracemalloc
import types

import numpy as np
import pytest
import soundfile
import tqdm

from moshijax.cli.codec import main
from moshijax.data.audio import Recording


TRY = ("--mimi", "random", "--preset", "tiny")
RATE = 24000


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_noise(name, seconds):
    noise = np.random.default_rng(0).standard_normal(seconds * RATE) * 0.1
    soundfile.write(name, noise, RATE)


@pytest.mark.parametrize("command", ["encode", "roundtrip"])
def test_memory_does_not_grow_with_the_length(command, monkeypatch):
    seconds = 20
    write_noise("in.wav", seconds)

    read = Recording.read_blocks

    def watched(*args):
        for i, block in enumerate(read(*args)):
            if i == 100:  # everything is compiled, and the second block of the file is read
                tracemalloc.start()
            yield block

    monkeypatch.setattr(Recording, "read_blocks", watched)
    output = "out.npz" if command == "encode" else "out.wav"
    try:
        main([command, "in.wav", output, "--codebooks", "1", *TRY])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < peak < 4 * RATE * seconds / 2, "half of the file was held"


def test_progress_is_shown_on_a_terminal_when_it_takes_long(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = iter(np.arange(1000) * 0.7)
    monkeypatch.setattr(tqdm.std, "time", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", Terminal())
    write_noise("in.wav", 2)
    main(["encode", "in.wav", "out.npz", *TRY])
    shown = sys.stderr.getvalue()
    assert "/2 s of audio" in shown
    assert " left" in shown


def test_no_progress_is_shown_in_a_file(capsys):
    write_noise("in.wav", 1)
    main(["encode", "in.wav", "out.npz", *TRY])
    assert capsys.readouterr().err == ""


def interrupted(capfd, monkeypatch, *args):
    """Runs the module, which must end with its one line."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # The command replaces them.
    monkeypatch.setattr(sys, "argv", ["codec", *args])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("moshijax.codec", run_name="__main__")
    assert caught.value.code == 130
    assert capfd.readouterr().err == "moshijax.codec: interrupted; nothing was written\n"


@pytest.mark.parametrize(
    "args", [("encode", "in.wav", "out.npz"), ("roundtrip", "in.wav", "out.wav")]
)
def test_interrupt_ends_with_one_line_and_no_half_written_file(args, capfd, monkeypatch, folder):
    write_noise("in.wav", 2)
    before = pathlib.Path("in.wav").read_bytes()
    read, files = Recording.read_blocks, []

    def interrupting(*args):
        for i, block in enumerate(read(*args)):
            if i == 3:
                files.extend(path.name for path in folder.iterdir())
                signal.raise_signal(signal.SIGINT)
            yield block

    monkeypatch.setattr(Recording, "read_blocks", interrupting)
    interrupted(capfd, monkeypatch, *args, *TRY)
    assert len(files) == (2 if args[0] == "roundtrip" else 1)
    assert [path.name for path in folder.iterdir()] == ["in.wav"]
    assert pathlib.Path("in.wav").read_bytes() == before


def test_interrupt_while_starting_ends_with_one_line(capfd, monkeypatch):
    class Slow(types.ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "moshijax.cli.codec", Slow("commands"))
    interrupted(capfd, monkeypatch, "--help")
