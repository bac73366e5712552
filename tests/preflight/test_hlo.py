import pathlib

from moshijax.preflight import hlo


TEXT = (pathlib.Path(__file__).parent / "program.txt").read_text()
MODULE = hlo.parse(TEXT)
OPS = {op.name: op for ops in MODULE.computations.values() for op in ops}


def test_loops_run_as_often_as_their_conditions_say_and_nested_ones_multiply():
    assert dict(MODULE.runs()) == {"main.10_spmd": 1, "layer_body": 8, "inner_body": 24}


def test_a_condition_that_hides_its_constant_in_a_fusion_is_looked_into():
    fused = TEXT.replace(
        "%lt.5 = pred[]{:T(512)} compare(%get-tuple-element.5, %constant.5), direction=LT",
        "%lt.5 = pred[]{:T(512)} fusion(%get-tuple-element.5), calls=%compared",
    ).replace("%constant.5 = s32[]{:T(128)} constant(8)", "")
    compared = "%compared (p: s32[]) -> pred[] {\n  %constant.77 = s32[] constant(11)\n}\n\nENTRY"
    module = hlo.parse(fused.replace("ENTRY", compared))
    assert dict(module.runs())["inner_body"] == 33


def test_instructions_end_where_they_end():
    kernel = OPS["kernel.1"]  # Its attributes go over three lines, one of which closes brackets.
    assert kernel.opcode == "custom-call"
    assert [op.name for op in MODULE.computations["layer_body"]].index("all-reduce.1") == 8
    assert OPS["tuple.4"].root
    assert not OPS["kernel.1"].root
    assert OPS["collective-permute-start.1"].opcode == "collective-permute-start"
    assert OPS["slice_fusion"].operands == ["get-tuple-element.2", "get-tuple-element.1"]
    assert OPS["slice_fusion"].called == "fused_computation.1"


def test_source_is_the_innermost_line_outside_of_libraries():
    assert MODULE.source(OPS["slice_fusion"]) == "nn/transformer.py:140"
    assert MODULE.source(OPS["reduce.1"]) == "train/optim.py:97"
    assert MODULE.source(OPS["copy.1"]) == ""


def test_sizes_of_types_and_what_of_them_is_in_main_memory():
    assert hlo.size("(f32[8,64]{1,0:T(8,128)}, s4[3]{0}, pred[], token[])") == 2048 + 1.5 + 1
    assert hlo.arrays("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}") == [(12, False)]
    assert hlo.arrays("bf16[2,3]{1,0:T(8,128)(2,1)}") == [(12, True)]
