import json
import pathlib
import subprocess
import sys
import types

import pytest
from ml_collections import ConfigDict

from moshijax.cli import preflight as command
from moshijax.preflight import topology
from moshijax.preflight.examine import examine
from moshijax.system.errors import UserError
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


def test_an_axis_that_stands_twice_is_refused():
    with pytest.raises(UserError, match="data stands twice in 'data=4,data=2'"):
        command.read_mesh("data=4,data=2")


def test_a_list_of_slices_may_have_spaces_a_last_comma_and_one_twice():
    found = command.read_topologies("V5E:2x2, v5p: 2x2x1 ,v5e:2x2,")
    assert [slice_.name for slice_ in found] == ["v5e:2x2", "v5p:2x2x1"]
    with pytest.raises(UserError, match="topology: '' is unknown"):
        command.read_topologies("v5e:2x2,,v5p:2x2x1")


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_what_is_no_price_is_refused(price):
    with pytest.raises(UserError, match=f"--price: {price} is no price"):
        command.check_price(price)


def test_a_price_may_be_anything_from_nothing_on():
    for price in (None, 0.0, 2.1):
        command.check_price(price)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    for name in ("file", "file/below"):
        with pytest.raises(UserError, match=r"--out: no file can be written in .*/file"):
            command.check_folder(tmp_path / name)
    with pytest.raises(UserError, match=r"report\.html is a folder"):
        command.check_folder(tmp_path / "taken")


@pytest.fixture
def preflight(monkeypatch, tmp_path):
    """Runs with some flags where libtpu knows no slice, so that nothing is compiled."""
    _without_libtpu(monkeypatch)

    def run(config, **changes):
        given = dict(topology="v5e:2x2", mesh=None, fit=False, compiles=2, price=None) | changes
        monkeypatch.setattr(command.flags, "FLAGS", types.SimpleNamespace(**given))
        return command.preflight(config, "stack", tmp_path / "out")

    return run


def test_an_impossible_slice_leaves_the_report_of_the_other(preflight, tmp_path, capsys):
    config = stack.get_config()
    config.batch_size = 4
    with pytest.raises(UserError, match=r"^v5e:2x4: batch_size: 4 rows do not divide among 8"):
        preflight(config, topology="v5e:2x4,v5e:2x2")
    shown = capsys.readouterr()
    assert "on v5e:2x2 (4 chips" in shown.out
    assert shown.err.startswith("preflight: v5e:2x4: batch_size")  # Before anything is compiled.
    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())
    assert row["topology"] == "v5e:2x2"


def test_a_slice_that_fails_later_leaves_the_report_of_the_other(preflight, monkeypatch, tmp_path):
    def one(config, slice_, mesh, name):
        if slice_.name == "v5e:2x4":
            raise UserError("a fault.")
        return [examine(config, slice_, name=name)]

    monkeypatch.setattr(command, "_one_slice", one)
    with pytest.raises(UserError, match=r"^v5e:2x4: a fault\.$"):
        preflight(stack.get_config(), topology="v5e:2x2,v5e:2x4,v5e:4x4")
    rows = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["topology"] for row in rows] == ["v5e:2x2", "v5e:4x4"]


@pytest.mark.parametrize(
    ("changes", "flags", "sentence"),
    [
        ({}, dict(fit=True, compiles=0), "--compiles: 0 is too few"),
        ({"accumulate": 3}, {}, "3 pieces do not divide a batch of 64 rows"),
        ({"accumulate": 0}, {}, "config.accumulate: 0 is refused"),
        ({"accumulate": 32}, {}, "32 pieces of 64 rows do not divide among 4 .*: take 1, 2, 4, 8"),
        ({}, dict(mesh="data=-1,fsdp=-1"), "mesh: data and fsdp are -1"),
        ({}, dict(mesh="data=0"), "mesh.data: 0 is no size"),
        ({"batch_size": 6}, {}, "take a multiple of 4, or a mesh of fsdp=2,tensor=2"),
        ({"batch_size": 1}, dict(fit=True, topology="v5e:4x4"), "1 rows divide over no mesh of 16"),
        ({"batch_size": 6}, dict(fit=True, mesh="fsdp=4"), "6 rows do not divide among 4 devices"),
    ],
)
def test_what_can_never_be_is_told_before_a_folder_is_made(
    preflight, tmp_path, changes, flags, sentence
):
    config = stack.get_config()
    config.evaluation = ConfigDict(dict(batch_size=8, sets={}))
    with pytest.raises(UserError, match=sentence):
        preflight(command.changed(config, changes), **flags)
    assert not (tmp_path / "out").exists()


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
        ({"experiment": "tests.contract"}, "'tests.contract' is no experiment"),
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
    sentence = "preflight: --config configs/loop.py: there is no get_config(): name one such as"
    refused(["--config", "configs/loop.py", "--topology", "v5e:2x2"], sentence)


def refused(arguments, sentence):
    line = [sys.executable, "-m", "moshijax.preflight", *arguments]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
