import dataclasses
import html.parser
import json

import pytest

from moshijax.preflight import estimate, memory, page, tables
from moshijax.preflight.collectives import Sum, Transfer
from moshijax.preflight.examine import Report
from moshijax.preflight.work import Work


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
    line = tables.as_text(tables.comparison([OVER, OVER])).splitlines()[-1]
    assert line.split() == ["v5e:2x2", "fsdp=4", "accumulate=2", "does", "not", "fit", "10.75"]


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


class Reader(html.parser.HTMLParser):
    """Checks that what is opened is closed, and keeps the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_sound_and_needs_nothing_else():
    reader = Reader()
    reader.feed(page.page([REPORT, OVER]))
    assert reader.open == []
    assert reader.links == []
    assert "f32[8,<9>]" in reader.text
    assert reader.text.count("v5e:2x2") == 2  # In the table of all.
    assert "Preflight of configs/some.py:large" in reader.text
    assert "All" not in page.page([REPORT])
