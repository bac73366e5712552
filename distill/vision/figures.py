"""The report of several distillation runs beside each other: one HTML file, and a table.

A run, an "arm" of the comparison, is read from its folder (`read_arm`) or given. Its metrics are
those of `distill.fidelity.summarize`, named `set/metric`: VALIDATION are drawn over the steps,
COLUMNS are tabled at the end. Metrics on images after mixup begin with `mixed_`. Of the training
rows `distance` is drawn. Metrics that a run lacks are left out.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from moshijax.report import page
from moshijax.report.charts import Line, Scale, line_chart
from moshijax.report.pictures import Picture, image_grid, pictures, png
from moshijax.report.tables import Table, as_text
from moshijax.report.theme import PALETTE
from moshijax.train.log import read_metrics
from moshijax.train.workdir import write_text


Number = float | int | str  # a metric; one that is not finite is written by its name


class Arm(NamedTuple):
    """One run of the comparison."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Number]]  # of its metrics.jsonl
    final: Mapping[str, Number]  # metrics at its end
    seconds: float | int | None


class Sample(NamedTuple):
    """Images of one batch as the two models saw them, bytes or floats from -1 to 1."""

    title: str
    caption: str
    student: np.ndarray  # [N, H, W, C]
    teacher: np.ndarray | None
    mix: float  # mixup's lambda, an image's own share; 1: no mixup


class Column(NamedTuple):
    """One figure of the final table."""

    title: str
    key: str
    percent: bool
    best: str  # "max" or "min"


TITLE = "Distillation by function matching"
INTRODUCTION = (
    "A teacher is trained on many labelled images; small students, all alike, then train on a "
    "small transfer set.",
    "The arms differ in what a student has to match: the labels; a teacher that sees a fixed view "
    "of each image; a teacher that sees exactly the student's view (consistent); and that with "
    "mixup on top (function matching).",
    "Beyer et al. (2022) find that consistency, mixup and patience belong together. This is what "
    "these runs gave.",
)
NOTE = (
    "Bold: best of its column among the students. Agreement: same first choice as the teacher. "
    "KL: from teacher to student, on clean test images and on mixed ones. ECE: expected "
    "calibration error, 15 bins."
)
# No-break spaces and soft hyphens: where a heading may break.
COLUMNS = (
    Column("Test top\u20111\N{NO-BREAK SPACE}%", "test/accuracy", True, "max"),
    Column("Agree\N{SOFT HYPHEN}ment\N{NO-BREAK SPACE}%", "test/agreement", True, "max"),
    Column("KL clean", "test/kl", False, "min"),
    Column("KL mixed", "test/mixed_kl", False, "min"),
    Column("ECE\N{NO-BREAK SPACE}%", "test/ece", True, "min"),
)
VALIDATION = {
    "accuracy": Scale("Validation accuracy", percent=True),
    "kl": Scale("KL from the teacher, clean images", log=True),
    "mixed_kl": Scale("KL from the teacher, mixed images", log=True),
    "agreement": Scale("Agreement with the teacher", percent=True),
    "ece": Scale("Calibration error", percent=True),
}
CAPTIONS = (
    "Distance to the teacher on the training views; training from labels has none. A fixed "
    "teacher can be learnt by heart: a low curve says little about other images.",
    "Top-1 accuracy on validation images; dashed: the teacher's.",
    "How far the student's probabilities are from the teacher's on validation images.",
    "The same after mixing each image with the one before it: off the data, where function "
    "matching trains.",
    "Validation images that student and teacher give the same class, right or wrong.",
    "How far the student's confidence is from its accuracy on validation images (ECE).",
)
MISSING = "–"  # noqa: RUF001


def read_arm(workdir: pathlib.Path, name: str, title: str) -> Arm:
    """An arm from its run's folder; one that has not begun has no rows."""
    rows = read_metrics(workdir / "metrics.jsonl")
    final: dict[str, Number] = {}
    for row in rows:
        if row["kind"] == "eval":
            final |= {key: value for key, value in row.items() if "/" in key}
    seconds = [float(row["seconds"]) for row in rows if "seconds" in row]
    return Arm(name, title, rows, final, max(seconds, default=None))


def write_report(
    out_path: pathlib.Path,
    arms: Sequence[Arm],
    samples: Sequence[Sample],
    facts: Mapping[str, str | Sequence[str]],
    teacher: Arm | None = None,
) -> None:
    """Writes the page whole or not at all.

    Args:
        out_path: the HTML file.
        arms: the students' runs.
        samples: images of their first batches.
        facts: of the machine, by name: a text, or a list of command lines.
        teacher: its run is a row of the table and a line in the accuracy chart.
    """
    parts = [
        page.header(TITLE, INTRODUCTION, results(arms)),
        page.section("Results", page.table(table(arms, teacher)._replace(title="", note=NOTE))),
        page.section("Over the steps", page.figures(charts(arms, teacher))),
    ]
    if samples:
        parts.append(page.section("What the models saw", pictures(map(picture, samples))))
    events = page.events((arm.title, message) for arm in arms for message in messages(arm))
    parts.append(page.section("Machine and runs", page.facts(facts), events))
    out_path.parent.mkdir(parents=True, exist_ok=True)
    write_text(out_path, page.document(TITLE, *parts))


def format_table(arms: Sequence[Arm], teacher: Arm | None = None) -> str:
    """The final table for a terminal; a star marks the best of a column."""
    return as_text(table(arms, teacher))


def table(arms: Sequence[Arm], teacher: Arm | None = None) -> Table:
    """The final metrics of every arm, and of the teacher below."""
    columns = ["Arm", "Steps", "Time"] + [column.title for column in COLUMNS]
    rows = [
        [arm.title, steps_of(arm), duration(arm.seconds)]
        + [shown(number(arm.final.get(column.key)), column) for column in COLUMNS]
        for arm in [*arms, *([teacher] if teacher else [])]
    ]
    leading = [(i, j) for j, column in enumerate(COLUMNS, 3) for i in leaders(arms, column)]
    note = "*: best of its column among the students."
    return Table("Results", columns, rows, best=leading, note=note if leading else "", wide=True)


def leaders(arms: Sequence[Arm], column: Column) -> list[int]:
    """Which arms have the best finite value of a column; none where there is nothing to compare."""
    values = [number(arm.final.get(column.key)) for arm in arms]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2:
        return []
    best = max(finite) if column.best == "max" else min(finite)
    return [i for i, value in enumerate(values) if value == best]


def results(arms: Sequence[Arm]) -> list[str]:
    """The best arm of each column, as sentences."""
    return [
        text.format(arms[i].title, shown(number(arms[i].final[column.key]), column))
        for column, text in (
            (COLUMNS[0], "Highest test accuracy: {} with {}%"),
            (COLUMNS[1], "Most often the teacher's choice: {} with {}%"),
            (COLUMNS[3], "Nearest to the teacher on mixed images: {} with a KL of {}"),
        )
        for i in leaders(arms, column)
    ]


def charts(arms: Sequence[Arm], teacher: Arm | None) -> list[tuple[Markup, str]]:
    """The figures: SVG and caption."""
    limit = teacher_accuracy(arms, teacher)
    reference = None if limit is None else ("Teacher", limit)
    loss = Scale("Distillation loss in training", log=True)
    drawn = [line_chart("loss", lines(arms, "train", "distance"), loss)]
    for key, scale in VALIDATION.items():
        shown_lines = lines(arms, "eval", f"validation/{key}")
        drawn.append(line_chart(key, shown_lines, scale, reference if key == "accuracy" else None))
    return list(zip(drawn, CAPTIONS, strict=True))


def lines(arms: Sequence[Arm], kind: str, key: str) -> list[Line]:
    """Every arm's finite values; an arm keeps its colour where others are missing."""
    drawn = []
    for i, arm in enumerate(arms):
        rows = [row for row in arm.rows if row["kind"] == kind and key in row]
        steps = np.array([row["step"] for row in rows], np.float64)
        values = np.array([float(row[key]) for row in rows])
        finite = np.isfinite(values)
        if finite.any():
            color = PALETTE[i % len(PALETTE)]
            drawn.append(Line(arm.title, color, steps[finite], values[finite]))
    return drawn


def teacher_accuracy(arms: Sequence[Arm], teacher: Arm | None) -> float | None:
    """On the validation images, from its own run or as the students' runs measured it."""
    found = [number(arm.final.get("validation/teacher_accuracy")) for arm in arms]
    if teacher is not None:
        found.insert(0, number(teacher.final.get("validation/accuracy")))
    return next((value for value in found if value is not None and math.isfinite(value)), None)


def picture(sample: Sample) -> Picture:
    """What the student saw, above what its teacher saw."""
    rows = [sample.student] if sample.teacher is None else [sample.student, sample.teacher]
    share = "no mixup"
    if sample.mix < 1:
        share = f"mixup {sample.mix:.2f}: each image with {1 - sample.mix:.0%} of the one before it"
    caption = f"{sample.caption}; {share}" if sample.caption else share
    names = ("student", "teacher")[: len(rows)]
    return Picture(sample.title, caption, png(image_grid(rows)), names)


def messages(arm: Arm) -> list[str]:
    """The events of a run: resumed, rolled back, stopped."""
    events = [row for row in arm.rows if row["kind"] == "event"]
    return [
        f"step {row['step']}: {row['message']}" if "step" in row else str(row["message"])
        for row in events
    ]


def steps_of(arm: Arm) -> str:
    """The last step of an arm's rows."""
    steps = [row["step"] for row in arm.rows if "step" in row]
    return f"{max(steps):,}" if steps else MISSING


def number(value: Number | None) -> float | None:
    """A metric as a number; None where there is none."""
    return None if value is None else float(value)


def shown(value: float | None, column: Column) -> str:
    """A metric as text."""
    if value is None:
        return MISSING
    return f"{100 * value:z.1f}" if column.percent else f"{value:z.3f}"  # z: never -0.000


def duration(seconds: float | int | None) -> str:
    """Seconds as minutes:seconds or hours:minutes:seconds."""
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
