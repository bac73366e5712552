"""A report as tables, and as plain text."""

import textwrap
from collections.abc import Sequence

from moshijax.preflight.examine import Report
from moshijax.report.tables import WIDTH, Table, as_text


GIB = 2**30


def gib(count: int | float) -> str:
    """Bytes as GiB."""
    return f"{count / GIB:.2f}" if count >= GIB / 200 or not count else "<0.01"


def seconds(value: int | float) -> str:
    """A time in the unit that suits it."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def share(value: int | float) -> str:
    """A fraction as percent."""
    return f"{100 * value:.0f}%"


def number(value: int | float) -> str:
    """A number of four digits at most, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def mesh(report: Report) -> str:
    """The mesh's axes that split anything."""
    return " ".join(f"{a}={n}" for a, n in report.mesh.items() if n > 1) or "one device"


def changes(report: Report) -> str:
    """The keys that were set, without the mesh."""
    return " ".join(f"{k}={v}" for k, v in report.changes.items() if not k.startswith("mesh."))


def kind(report: Report) -> str:
    """The kind of batch, where there are several."""
    return report.kind if len(report.kinds) > 1 else ""


def title(report: Report) -> str:
    """What was compiled for what."""
    name = ", ".join(filter(None, [f"{report.config} {changes(report)}".strip(), kind(report)]))
    return f"{name} on {report.topology} ({report.chips} chips, {mesh(report)})"


def verdict(report: Report) -> str:
    """Whether it fits, and what it would cost."""
    usage, time, run = report.usage, report.time, report.run
    told = report.status
    if usage:
        needed = usage.needed + report.unused_bytes
        told += f": {gib(needed)} of {gib(usage.available)} GiB a chip"
    if not report.fits:
        return told
    cost = f"{number(run.days)} days, {number(run.chip_hours)} chip-hours"
    return f"{told}; {seconds(time.step)} a step, MFU {share(time.mfu)}; {cost}"


def tables(report: Report) -> list[Table]:
    """The parts of a report that have something to say."""
    parts = [_memory(report), _buffers(report), _shares(report), _collectives(report)]
    return [t for t in [*parts, _time(report), _run(report)] if t.rows]


def _memory(report: Report) -> Table:
    usage = report.usage
    parts = {"state and frozen arrays": sum(s.chip_bytes for s in report.shares)}
    parts["batch"] = report.batch_bytes
    if usage:
        parts["temporaries at the peak"] = usage.temporaries
        parts["needed"] = usage.needed + report.unused_bytes
        parts["there is"] = usage.available
    note = ""
    if usage and usage.outputs:
        kept = share(usage.aliased / usage.outputs)
        note = f"{kept} of the {gib(usage.outputs)} GiB returned replace donated arguments."
    return Table("Memory of a chip", ("", "GiB"), [(k, gib(v)) for k, v in parts.items()], (), note)


def _buffers(report: Report) -> Table:
    largest = report.usage.largest if report.usage else ()
    rows = [(b.shape, gib(b.bytes), b.source, _scope(b.scope)) for b in largest]
    return Table("Largest temporaries", ("shape", "GiB", "line", "operation"), rows, (2, 3))


def _scope(scope: str) -> str:
    """The end of an operation's name, which tells most."""
    return scope if len(scope) <= 44 else "…" + scope[-43:]


def _shares(report: Report) -> Table:
    rows = [
        (s.part, s.spec, str(s.arrays), gib(s.bytes), gib(s.chip_bytes))
        for s in report.shares
        if s.bytes
    ]
    columns = ("", "split over", "arrays", "GiB in all", "GiB a chip")
    note = f"{report.parameters:,} parameters in the state's model."
    return Table("State and frozen arrays", columns, rows, (1,), note)


def _collectives(report: Report) -> Table:
    rows = [
        (c.kind, c.axes, f"{c.count:,}", gib(c.bytes), seconds(c.seconds), seconds(c.exposed))
        for c in report.collectives
    ]
    columns = ("", "over", "a step", "GiB", "time", "exposed")
    return Table("Collectives of a step, on one chip", columns, rows, (1,))


def _time(report: Report) -> Table:
    time, flops = report.time, report.flops
    rows = [
        ("roofline: compute", seconds(time.compute)),
        ("roofline: memory", seconds(time.memory)),
        ("roofline: interconnect", seconds(time.links)),
    ]
    if report.work:
        rows += [
            ("compiler's cycles, calibrated", seconds(time.busy)),
            *(
                (f"  of which {kind}", seconds(value))
                for kind, value in list(report.work.by_kind.items())[:4]
            ),
            ("kernels", seconds(time.kernels)),
            ("exposed collectives", seconds(time.exposed)),
        ]
    rows += [("predicted step", seconds(time.step)), ("MFU", share(time.mfu))]
    note = (
        f"{flops.executed:.3g} FLOPs a step, loops multiplied out; the model's own, of which the "
        f"MFU is: {flops.model:.3g} (forward and backward once, nothing recomputed). {time.rule}"
    )
    return Table("Time of a step", ("", ""), rows, (), note)


def _run(report: Report) -> Table:
    run = report.run
    rows = [(f"{unit} a day", number(n)) for unit, n in run.per_day.items()]
    rows += [
        ("steps", f"{run.steps:,}"),
        ("days", number(run.days)),
        ("chip-hours", number(run.chip_hours)),
    ]
    if run.price is not None:
        rows.append(("price", number(run.price)))
    return Table("The whole run", ("", ""), rows)


def comparison(reports: Sequence[Report]) -> Table:
    """One line a report."""
    rows = []
    for r in reports:
        usage, known = r.usage, r.fits
        rows.append(
            (
                r.topology,
                mesh(r),
                changes(r),
                kind(r),
                r.status,
                gib(usage.needed + r.unused_bytes) if usage else "",
                seconds(r.time.step) if known else "",
                share(r.time.mfu) if known else "",
                number(r.run.days) if known else "",
                number(r.run.chip_hours) if known else "",
                number(r.run.price) if known and r.run.price is not None else "",
            )
        )
    columns = (
        *("topology", "mesh", "changes", "batch", "", "GiB", "step", "MFU", "days", "chip-hours"),
        "price",
    )
    return Table("All", columns, rows, (1, 2, 3, 4))


def report_text(report: Report) -> str:
    """A whole report for a terminal."""
    head = textwrap.wrap(title(report), WIDTH) + textwrap.wrap(verdict(report), WIDTH)
    notes = [line for n in report.notes for line in textwrap.wrap(n, WIDTH)]
    return "\n\n".join(["\n".join(head + notes), *map(as_text, tables(report))])
