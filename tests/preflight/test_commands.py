import pathlib
import subprocess
import sys

import pytest

from moshijax.preflight import __main__ as command
from moshijax.preflight import topology
from moshijax.preflight.examine import examine
from tests.preflight import stack


ROOT = pathlib.Path(__file__).parent.parent.parent


def test_a_mesh_on_the_command_line_is_the_whole_mesh():
    assert command.read_mesh("data=4,fsdp=-1") == {
        "mesh.data": 4,
        "mesh.fsdp": -1,
        "mesh.tensor": 1,
    }
    assert command.read_mesh(None) == {}


@pytest.mark.parametrize("text", ["model=2", "data", "data=", "data=two", "data:2"])
def test_a_mesh_in_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r"is not AXIS=SIZE with an axis of data, fsdp, tensor"):
        command.read_mesh(text)


def test_a_config_is_called_as_it_was_typed():
    typed = ["--config", "configs/a.py:x=1", "--topology=v5e:2x2", "--config.batch_size=8"]
    assert command.config_name(typed) == "configs/a.py:x=1 batch_size=8"
    assert command.config_name(["--config=configs/a.py"]) == "configs/a.py"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mesh.data": 3}, r"does not make 4 devices"),
        ({"mesh.fsdp": 4, "batch_size": 6}, "6 rows do not divide among 4 devices"),
        ({"experiment": "tests.nothing"}, "'tests.nothing' cannot be imported"),
        ({"experiment": "tests.contract"}, "'tests.contract' has no task to plan"),
    ],
)
def test_what_does_not_fit_together_is_told_before_anything_is_compiled(
    monkeypatch, changes, sentence
):
    _without_libtpu(monkeypatch)
    with pytest.raises(ValueError, match=sentence):
        examine(stack.get_config(), topology.parse("v5e:2x2"), changes=changes)


def test_a_config_without_a_task_is_told(monkeypatch):
    _without_libtpu(monkeypatch)
    with pytest.raises(ValueError, match=r"config\.experiment is missing: name the module"):
        examine(stack.get_config("without"), topology.parse("v5e:2x2"))


def _without_libtpu(monkeypatch):
    def unknown(slice_):
        raise topology.UnknownSliceError("not here")

    monkeypatch.setattr(topology, "devices", unknown)
    monkeypatch.setattr(topology, "check_libtpu", lambda: None)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--topology", "v5e:2x2,v9:1"], "preflight: topology: 'v9:1' is unknown, take one of v4"),
        (["--topology", "v5e:2x2", "--config.dimension=3"], "preflight: unknown config key"),
        (["--topology", "v5e:2x2", "--fitt"], "preflight: Unknown command line flag 'fitt'"),
        (["--topology", "v5e:2x2", "--config=configs/moshi.py:stage=7"], "switch stage: 7 is"),
    ],
)
def test_wrong_command_ends_with_one_sentence(extra, sentence):
    refused(["--config", "tests/preflight/stack.py", *extra], sentence)


def test_a_file_that_is_no_experiment_is_refused():
    sentence = "preflight: --config: that file has no get_config(): name an experiment"
    refused(["--config", "configs/common.py", "--topology", "v5e:2x2"], sentence)


def refused(arguments, sentence):
    line = [sys.executable, "-m", "moshijax.preflight", *arguments]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
