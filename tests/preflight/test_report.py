import dataclasses
import json

import pytest

from moshijax.preflight import estimate, memory, page, tables
from moshijax.preflight.collectives import Sum, Transfer
from moshijax.preflight.examine import Report
from moshijax.preflight.work import Work
from moshijax.report.tables import as_text
from tests.pages import HARM, Page


GIB = 2**30
USAGE = memory.Usage(
    needed=10.5 * GIB,
    available=15.75 * GIB,
    arguments=1.5 * GIB,
    temporaries=9.0 * GIB,
    outputs=0.5 * GIB,
    aliased=0.5 * GIB,
    largest=(memory.Buffer(2 * GIB, "f32[8,<9>]", "jit(update)/" + 60 * "x", "nn/conv.py:7"),),
)
REPORT = Report(
    kind="rows",
    kinds=("rows",),
    config="configs/some.py:large",
    changes={"mesh.fsdp": 4, "accumulate": 2},
    topology="v5e:2x2",
    chips=4,
    mesh={"data": 1, "fsdp": 4, "tensor": 1},
    status="fits",
    notes=(),
    compile_seconds=3.0,
    parameters=123_456_789,
    shares=(memory.Share("model", "fsdp", 3, 4 * GIB, GIB),),
    batch_bytes=0.25 * GIB,
    unused_bytes=0.25 * GIB,
    usage=USAGE,
    collectives=(Sum("all-gather", "fsdp", 8, 3 * GIB, 0.05, 0.01),),
    longest=(Transfer("all-gather", 1.0, 8, "fsdp", 0.05, True, "", ""),),
    work=Work(1e9, 0.6, 1e9, {"copies": 0.15}, 0),
    flops=estimate.Flops(4e14, 3e14, 0.0),
    time=estimate.Estimate(0.5, 0.2, 0.05, 0.6, 0.0, 0.01, 0.61, 0.55, "compute", "A rule."),
    run=estimate.Run(1000, {"images": 1.2e6}, 1.25, 120.0, 144.0),
)
OVER = dataclasses.replace(
    REPORT, status="does not fit", notes=("1.00 GiB too many for a chip.",), work=None
)


def test_report_tells_every_part():
    text = tables.report_text(REPORT)
    for part in (
        "configs/some.py:large accumulate=2 on v5e:2x2 (4 chips, fsdp=4)",
        "fits: 10.75 of 15.75 GiB a chip; 610.00 ms a step, MFU 55%; 1.25 days, 120 chip-hours",
        "price               144",
        "nn/conv.py:7",
        "100% of the 0.50 GiB returned replace donated arguments.",
        "123,456,789 parameters",
        "  model  fsdp             3        4.00        1.00",
        "  all-gather  fsdp       8  3.00  50.00 ms  10.00 ms",
        "of which copies              150.00 ms",
        "A rule.",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 110


def test_what_does_not_fit_is_told_without_promises():
    text = tables.report_text(OVER)
    assert "does not fit: 10.75 of 15.75 GiB a chip" in text
    assert "1.00 GiB too many" in text
    line = as_text(tables.comparison([OVER, OVER])).splitlines()[-1]
    assert line.split() == ["v5e:2x2", "fsdp=4", "accumulate=2", "does", "not", "fit", "10.75"]


def test_reports_of_several_kinds_of_batches_say_which_is_which():
    kinds = ("audio", "text")
    audio, text = (dataclasses.replace(REPORT, kind=kind, kinds=kinds) for kind in kinds)
    assert "large accumulate=2, audio on v5e:2x2 (4" in tables.report_text(audio)
    lines = as_text(tables.comparison([audio, text])).splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["batch", "audio", "text"]
    shown = Page(page.page([audio, text])).text
    assert "v5e:2x2, fsdp=4, text" in shown
    assert shown.count("Preflight of configs/some.py:large\n") == 2  # Title and heading.
    assert "rows" not in tables.report_text(REPORT)
    assert "batch" not in as_text(tables.comparison([REPORT])).splitlines()[1]


def test_numbers_have_the_digits_that_mean_something():
    assert [tables.number(n) for n in (1234567.8, 100, 12.345, 0.0123456, 0)] == [
        *("1,234,568", "100", "12.3", "0.0123", "0.00"),
    ]
    assert (tables.gib(0), tables.gib(1), tables.gib(GIB)) == ("0.00", "<0.01", "1.00")
    assert (tables.seconds(1.5), tables.seconds(0.0015)) == ("1.50 s", "1.50 ms")


def test_json_has_everything_and_only_numbers_that_json_knows():
    strange = dataclasses.replace(REPORT, time=REPORT.time._replace(mfu=float("nan")))
    read = json.loads(strange.to_json(), parse_constant=pytest.fail)
    assert read["usage"]["largest"][0]["source"] == "nn/conv.py:7"
    assert read["shares"] == [
        dict(part="model", spec="fsdp", arrays=3, bytes=4.0 * GIB, chip_bytes=1.0 * GIB)
    ]
    assert read["time"]["mfu"] == "nan"
    assert read["run"]["per_day"] == {"images": 1.2e6}


def test_page_is_sound_and_needs_nothing_else():
    shown = Page(page.page([REPORT, OVER]))
    assert shown.sources == []
    assert "f32[8,<9>]" in shown.text
    assert shown.text.count("v5e:2x2") == 4  # In the table of all, and over each.
    assert "Preflight of configs/some.py:large" in shown.text
    assert "fits: 10.75 of 15.75 GiB" in shown.text
    assert "1.00 GiB too many for a chip." in shown.text
    assert "All" not in page.page([REPORT])
    assert page.page([REPORT]) == page.page([REPORT])


def test_texts_of_a_config_and_of_a_program_stay_texts():
    buffer = memory.Buffer(2 * GIB, HARM, HARM[-40:], HARM)
    harmful = dataclasses.replace(
        REPORT,
        config=HARM,
        changes={HARM: HARM},
        topology=HARM,
        mesh={HARM: 4},
        notes=(HARM,),
        shares=(memory.Share(HARM, HARM, 3, 4 * GIB, GIB),),
        usage=USAGE._replace(largest=(buffer,)),
        collectives=(Sum(HARM, HARM, 8, 3 * GIB, 0.05, 0.01),),
        work=Work(1e9, 0.6, 1e9, {HARM: 0.15}, 0),
        time=REPORT.time._replace(rule=HARM),
        run=REPORT.run._replace(per_day={HARM: 1.0}),
    )
    shown = Page(page.page([harmful, harmful]))
    assert shown.tags == Page(page.page([dataclasses.replace(REPORT, notes=("a",))] * 2)).tags
    assert shown.text.count(HARM) == 2 + 4 * 2 + 12 * 2
