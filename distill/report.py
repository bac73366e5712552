"""The report of several distillation runs beside each other: one HTML file, and a table.

A run, an "arm" of the comparison, is read from its folder (`read_arm`) or given. What is
shown are the names of `distill.fidelity.summarize` behind that of an evaluation set:
those of VALIDATION over the steps, those of COLUMNS at the end; `mixed_` stands before what
is measured on images after mixup. Of the training rows it is `distance`. What a run has not
got is left out.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill import page
from distill.figures import PALETTE, Line, Scale, image_grid, line_chart, png
from moshijax.train.log import read_metrics
from moshijax.train.workdir import write_text


class Arm(NamedTuple):
    """One run of the comparison."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Any]]  # of its metrics.jsonl
    final: Mapping[str, Any]  # metrics at its end
    seconds: float | int | None


class Sample(NamedTuple):
    """Images of one batch as the two models saw them, bytes or floats from -1 to 1."""

    title: str
    caption: str
    student: np.ndarray  # [N, H, W, C]
    teacher: np.ndarray | None
    mix: float  # an image's own share; 1: no mixup


class Column(NamedTuple):
    """One figure of the final table."""

    title: str
    key: str
    percent: bool
    best: str  # "max" or "min"


COLUMNS = (
    Column("Test top-1 %", "test/accuracy", True, "max"),
    Column("Agreement %", "test/agreement", True, "max"),
    Column("KL clean", "test/kl", False, "min"),
    Column("KL mixed", "test/mixed_kl", False, "min"),
    Column("ECE %", "test/ece", True, "min"),
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
    final: dict[str, Any] = {}
    for row in rows:
        if row["kind"] == "eval":
            final |= {key: value for key, value in row.items() if "/" in key}
    seconds = [float(row["seconds"]) for row in rows if "seconds" in row]
    return Arm(name, title, rows, final, max(seconds, default=None))


def write_report(
    out_path: pathlib.Path,
    arms: Sequence[Arm],
    samples: Sequence[Sample],
    facts: Mapping[str, Any],
    teacher: Arm | None = None,
) -> None:
    """Writes the page whole or not at all.

    `facts` are shown as they come: a text beside its name, a list as lines of commands.
    The teacher's run, if given, is a line of its own in the table and in the accuracy chart.
    """
    body = [
        page.header(results(arms)),
        page.section("Results", page.table(*table(arms, teacher)) + page.NOTE),
        page.section("Over the steps", page.charts(charts(arms, teacher))),
    ]
    if samples:
        body.append(page.section("What the models saw", page.views(map(view, samples))))
    events = {arm.title: messages(arm) for arm in arms if messages(arm)}
    body.append(page.section("Machine and runs", page.facts(facts) + page.events(events)))
    out_path.parent.mkdir(parents=True, exist_ok=True)
    write_text(out_path, page.document("".join(body)))


def format_table(arms: Sequence[Arm], teacher: Arm | None = None) -> str:
    """The final table for a terminal; a star marks the best of a column."""
    titles, rows = table(arms, teacher)
    cells = [[f"{title} " for title in titles]] + [
        [text + (" ", "*")[best] for text, best in row] for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    lines = []
    for first, *rest in cells:
        numbers = (f"{text:>{width}}" for text, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([f"{first:<{widths[0]}}", *numbers]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "* best of its column"])


def table(
    arms: Sequence[Arm], teacher: Arm | None = None
) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Titles, and of every arm its cells: text, and whether it is the best of the column."""
    titles = ["Arm", "Steps", "Time"] + [column.title for column in COLUMNS]
    leaders = [best(arms, column) for column in COLUMNS]
    rows = []
    for arm in [*arms, *([teacher] if teacher else [])]:
        cells = [(text, False) for text in (arm.title, steps_of(arm), duration(arm.seconds))]
        for column, leader in zip(COLUMNS, leaders, strict=True):
            value = number(arm.final.get(column.key))
            leads = leader is not None and arm is not teacher and value == leader
            cells.append((shown(value, column), leads))
        rows.append(cells)
    return titles, rows


def best(arms: Sequence[Arm], column: Column) -> float | None:
    """The best finite value of a column; none where there is nothing to compare."""
    values = [number(arm.final.get(column.key)) for arm in arms]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2:
        return None
    return max(finite) if column.best == "max" else min(finite)


def results(arms: Sequence[Arm]) -> list[str]:
    """What came out, a sentence a column; it follows from the table alone."""
    sentences = []
    for column, text in (
        (COLUMNS[0], "Highest test accuracy: {} with {}%"),
        (COLUMNS[1], "Most often the teacher's choice: {} with {}%"),
        (COLUMNS[3], "Nearest to the teacher on mixed images: {} with a KL of {}"),
    ):
        leader = best(arms, column)
        for arm in arms:
            if leader is not None and number(arm.final.get(column.key)) == leader:
                sentences.append(text.format(arm.title, shown(leader, column)))
    return sentences


def charts(arms: Sequence[Arm], teacher: Arm | None) -> list[tuple[str, str]]:
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
    """On the validation images, by its own run or by what the students' runs saw of it."""
    found = [number(arm.final.get("validation/teacher_accuracy")) for arm in arms]
    if teacher is not None:
        found.insert(0, number(teacher.final.get("validation/accuracy")))
    return next((value for value in found if value is not None and math.isfinite(value)), None)


def view(sample: Sample) -> tuple[str, str, str, int]:
    """Title, caption, image and its number of rows: the student's above the teacher's."""
    rows = [sample.student] if sample.teacher is None else [sample.student, sample.teacher]
    share = "no mixup"
    if sample.mix < 1:
        share = f"mixup {sample.mix:.2f}: each image with {1 - sample.mix:.0%} of the one before it"
    caption = f"{sample.caption}; {share}" if sample.caption else share
    return sample.title, caption, png(image_grid(rows)), len(rows)


def messages(arm: Arm) -> list[str]:
    """What a person should know of a run: resumed, gone back, stopped."""
    events = [row for row in arm.rows if row["kind"] == "event"]
    return [
        f"step {row['step']}: {row['message']}" if "step" in row else row["message"]
        for row in events
    ]


def steps_of(arm: Arm) -> str:
    """The last step of an arm's rows."""
    steps = [row["step"] for row in arm.rows if "step" in row]
    return f"{max(steps):,}" if steps else MISSING


def number(value: Any) -> float | None:
    """A metric; one that is not finite stands in the rows by its name."""
    return None if value is None else float(value)


def shown(value: float | None, column: Column) -> str:
    """A metric as text."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if column.percent else f"{value:.3f}"


def duration(seconds: float | int | None) -> str:
    """Seconds as minutes:seconds or hours:minutes:seconds."""
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
