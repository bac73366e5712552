import pathlib
import types

import jax
import pytest

from moshijax.preflight import topology
from moshijax.preflight.compile import compile_for
from moshijax.preflight.examine import changed, examine, plan, remedies
from moshijax.system.errors import UserError
from moshijax.train.chips import CHIPS, GIB
from tests.preflight import stack
from tests.preflight.test_hlo import TEXT
from tests.preflight.test_memory import ASSIGNMENT, EARLY, REPORT, VMEM
from tests.preflight.test_report import USAGE


CHIP = CHIPS["v5e"]
SIZES = dict(data=1, fsdp=2, tensor=1)


class Lowered:
    """Stands for a lowered program whose compiler writes these files and then this error."""

    def __init__(self, files, error=None):
        self.files, self.error = files, error

    def compile(self, compiler_options):
        folder = pathlib.Path(compiler_options["xla_dump_to"])
        assert compiler_options["xla_dump_hlo_as_text"] is True
        for name, text in self.files.items():
            (folder / f"module_0001.jit_update.{name}.txt").write_text(text)
            (folder / f"module_0000.jit_small.{name}.txt").write_text("")
        if self.error:
            raise jax.errors.JaxRuntimeError(self.error)
        stats = types.SimpleNamespace(
            argument_size_in_bytes=2e9,
            output_size_in_bytes=1e9,
            alias_size_in_bytes=1e9,
            peak_memory_in_bytes=5e9,
        )
        return types.SimpleNamespace(memory_analysis=lambda: stats)


FILES = {
    "after_codegen": TEXT,
    "memory-usage-report": REPORT,
    "buffer-assignment": ASSIGNMENT,
    "after_optimizations": TEXT,
}


def test_what_the_compiler_writes_is_read():
    found = compile_for(Lowered(FILES), CHIP, 2e9)
    assert found.status == "fits"
    assert found.usage.needed == 20754975232
    assert found.usage.temporaries == 20754975232 - 2e9
    assert found.usage.largest[0].source == "nn/transformer.py:140"
    assert found.module.entry == "main.10_spmd"


def test_without_the_compilers_report_its_peak_counts():
    files = FILES | {"memory-usage-report": ""}
    assert compile_for(Lowered(files), CHIP, 2e9).usage.needed == 5e9


def test_a_compiler_that_tells_no_memory_is_a_sentence(monkeypatch):
    silent = types.SimpleNamespace(memory_analysis=lambda: None)
    monkeypatch.setattr(Lowered, "compile", lambda self, compiler_options: silent)
    with pytest.raises(UserError, match="says nothing of the memory"):
        compile_for(Lowered({}), CHIP, 2e9)


def test_out_of_memory_is_an_answer_with_lines():
    found = compile_for(Lowered(FILES, EARLY), CHIP, 2e9)
    assert found.status == "does not fit"
    assert found.usage.needed == 19.33 * GIB
    assert found.usage.temporaries == 19.33 * GIB - 2e9
    assert found.usage.largest[0].source == "nn/transformer.py:140"
    assert found.module is None


@pytest.mark.parametrize("error", [VMEM, "INTERNAL: RET_CHECK failure\n\nand a long story"])
def test_other_refusals_are_passed_on_in_one_line(error):
    found = compile_for(Lowered({}, error), CHIP, 2e9)
    assert found.status == "not compiled"
    assert found.message == error.split("\n")[0]
    assert found.usage is None


def test_the_cache_of_programs_is_left_as_it_was():
    before = jax.config.values["jax_enable_compilation_cache"]
    for error in (None, EARLY):
        compile_for(Lowered(FILES, error), CHIP, 2e9)
        assert jax.config.values["jax_enable_compilation_cache"] == before


def usage(arguments, temporaries):
    needed = (arguments + temporaries) * GIB
    return USAGE._replace(
        needed=needed, available=16.0 * GIB, arguments=arguments * GIB,
        temporaries=temporaries * GIB,
    )  # fmt: skip


def test_remedies_are_next_steps_that_would_be_enough():
    config = changed(stack.get_config(), {"remat": "none", "batch_size": 90})
    notes = " ".join(remedies(config, plan(config, SIZES), usage(1.0, 45.0), 0.0))
    assert "30.00 GiB too many for a chip." in notes
    assert "--config.remat=full" in notes
    assert "--config.accumulate=4" in notes  # Two pieces would still be too large.
    assert "batch_size of 30 or less" in notes
    config = changed(config, {"remat": "full"})
    assert "remat" not in " ".join(remedies(config, plan(config, SIZES), usage(1.0, 20.0), 0.0))


def test_remedies_look_at_the_state_where_it_is_the_trouble():
    planned = plan(stack.get_config(), SIZES)
    notes = " ".join(remedies(stack.get_config(), planned, usage(12.0, 6.0), 0.0))
    assert "Most of it is the state: raise mesh.fsdp." in notes
    (over, *rest) = remedies(stack.get_config(), planned, usage(20.0, 1.0), 0.0)
    assert over == "5.00 GiB too many for a chip."
    assert "larger slice" in " ".join(rest)
    # What the update does not read stays on the chip all the same.
    assert remedies(stack.get_config(), planned, usage(1.0, 14.0), 3.0 * GIB)[0].startswith("2.00")


def test_a_slice_that_cannot_be_described_still_has_memory_and_flops(monkeypatch):
    def unknown(slice_):
        raise topology.UnknownSliceError("libtpu does not know it")

    monkeypatch.setattr(topology, "devices", unknown)
    monkeypatch.setattr(topology, "check_libtpu", lambda: None)
    config = stack.get_config()
    report = examine(config, topology.parse("v5p:4x4x4"), changes={"mesh.fsdp": 32, "mesh.data": 2})
    weights = 8 * 2 * 1024 * 4096
    assert report.status == "not compiled"
    assert report.parameters == weights
    assert sum(s.chip_bytes for s in report.shares) == pytest.approx(12 * weights / 32, rel=1e-3)
    assert report.batch_bytes == 64 * 256 * 1024 * 4 / 64
    assert report.flops.model == 6 * weights * 64 * 256
    assert report.time.step == report.flops.executed / 64 / CHIPS["v5p"].flops
    assert report.run.days == pytest.approx(report.time.step * 1000 / 86400)
    assert "libtpu does not know it" in report.notes[0]
    assert config.mesh.fsdp == -1  # The config itself is not changed.


def test_what_the_mesh_does_not_divide_is_a_note(monkeypatch):
    def unknown(slice_):
        raise topology.UnknownSliceError("libtpu does not know it")

    monkeypatch.setattr(topology, "devices", unknown)
    monkeypatch.setattr(topology, "check_libtpu", lambda: None)
    config = stack.get_config()
    config.layers, config.dim = 2, 36
    report = examine(config, topology.parse("v5e:2x4"))
    assert report.notes[-1].startswith(
        "mesh.fsdp=8 does not divide 36 of model/down/kernel, 36 of model/up/kernel:"
    )
