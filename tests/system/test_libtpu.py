import os

import pytest

from moshijax.system import libtpu


@pytest.fixture
def _bare(monkeypatch):
    for name in [n for n in os.environ if n.startswith("TPU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(libtpu.glob, "glob", lambda pattern: [])
    for name in libtpu.SETTINGS:  # So that they are gone after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_bare")
def test_without_a_tpu_libtpu_is_told_what_it_would_ask_for(monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/somewhere/libtpu.so")
    libtpu.hush()
    assert {name: os.environ[name] for name in libtpu.SETTINGS} == libtpu.SETTINGS
    assert not libtpu.has_tpu()  # What was set by us is no sign of a TPU.


@pytest.mark.usefixtures("_bare")
def test_options_of_scripts_in_the_environment_are_no_tpu(monkeypatch):
    options = {"PROJECT": "lab", "ZONE": "us-east5-a", "NAME": "pod", "TOPOLOGY": "v5e:4x8"}
    for name, value in options.items():
        monkeypatch.setenv(f"TPU_{name}", value)
    libtpu.hush()
    assert {name: os.environ[name] for name in libtpu.SETTINGS} == libtpu.SETTINGS


@pytest.mark.usefixtures("_bare")
def test_a_tpu_that_is_there_is_left_alone(monkeypatch):
    monkeypatch.setattr(libtpu.glob, "glob", lambda pattern: ["/dev/vfio/0"])
    libtpu.hush()
    assert "TPU_ACCELERATOR_TYPE" not in os.environ


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TPU_WORKER_ID", "3"),
        ("TPU_ACCELERATOR_TYPE", "v5p-128"),
        ("TPU_VISIBLE_CHIPS", "0"),
        ("TPU_PROCESS_ADDRESSES", "a:1,b:1"),
    ],
)
def test_a_machine_that_is_told_to_have_one_is_left_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    libtpu.hush()
    assert os.environ[name] == value
    assert "TPU_WORKER_HOSTNAMES" not in os.environ
