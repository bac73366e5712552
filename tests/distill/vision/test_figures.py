import json
import re

import numpy as np
import pytest

from distill.vision import figures
from distill.vision.figures import Arm, Sample, format_table, read_arm, write_report
from tests.pages import HARM, Page


# Made up: final accuracy, agreement, KL, mixed KL, ECE, level of the training loss.
ARMS = {
    "labels": ("Labels", 0.821, 0.842, 0.655, 0.981, 0.112, None),
    "fixed": ("Fixed teacher", 0.825, 0.851, 0.402, 0.744, 0.054, 0.004),
    "consistent": ("Consistent", 0.858, 0.901, 0.231, 0.391, 0.021, 0.04),
    "funmatch": ("Function matching", 0.849, 0.893, 0.243, 0.187, 0.034, 0.11),
}
FACTS = {
    "Machine": "2 cores, 8 GiB",
    "Versions": "Python 3.11, jax <0.10>",
    "Commands": ["make quickstart", "python -m distill --config a.py:tiny"],
}


def rows_of(accuracy, agreement, kl, mixed, ece, level, num_steps=4000):
    """Rows of a run as the loop writes them, with noise."""
    noise = np.random.default_rng(int(1e4 * accuracy))
    rows = []
    for step in range(50, num_steps + 1, 50):
        row = {"step": step, "kind": "train", "loss": 1.0, "images_per_s": 900.0, "mfu": 0.2}
        if level is not None:
            row["distance"] = (level + 2 / (1 + step / 60)) * float(np.exp(noise.normal() / 10))
        rows.append({**row, "seconds": 0.04 * step})
        if step % 200 == 0:
            left = float(np.exp(-step / 600))
            evaluation = {
                "validation/accuracy": accuracy - 0.5 * left + 0.006 * noise.normal(),
                "validation/teacher_accuracy": 0.878,
                "validation/kl": kl + 2 * left + 0.005 * noise.normal(),
                "validation/mixed_kl": mixed + 2 * left + 0.005 * noise.normal(),
                "validation/agreement": agreement - 0.5 * left + 0.006 * noise.normal(),
                "validation/ece": ece + 0.1 * left + 0.003 * noise.normal(),
            }
            rows.append({"step": step, "kind": "eval", **evaluation})
    final = {
        "test/accuracy": accuracy,
        "test/agreement": agreement,
        "test/kl": kl,
        "test/mixed_kl": mixed,
        "test/ece": ece,
    }
    rows.append({"step": num_steps, "kind": "eval", **final})
    return rows


def made_up_arms(tmp_path):
    arms = []
    for name, (title, *numbers) in ARMS.items():
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows_of(*numbers))
        (tmp_path / name / "metrics.jsonl").write_text(text)
        arms.append(read_arm(tmp_path / name, name, title))
    return arms


def made_up_samples():
    """Blobs instead of clothes, seven a view."""
    noise = np.random.default_rng(0)
    at = np.linspace(-1, 1, 28)
    centres = noise.uniform(-0.4, 0.4, (7, 2))
    views = [np.exp(-4 * ((at[:, None] - y) ** 2 + (at[None] - x) ** 2)) for y, x in centres]
    images = (2 * np.stack(views)[..., None] - 1).astype(np.float32)
    mixed = 0.7 * images + 0.3 * np.roll(images, 1, axis=0)
    return [
        Sample("Labels", "inception crop", images, None, 1.0),
        Sample("Fixed teacher", "crop for the student only", images[:, ::-1], images, 1.0),
        Sample("Consistent", "the same crop", images, images, 1.0),
        Sample("Function matching", "the same crop", mixed, mixed, 0.7),
    ]


def made_up_teacher():
    final = {"test/accuracy": 0.874, "test/ece": 0.03, "validation/accuracy": 0.878}
    return Arm("teacher", "Teacher", [{"kind": "train", "step": 1200}], final, 143.2)


def test_a_complete_report_stands_alone_and_shows_everything(tmp_path):
    out = tmp_path / "runs" / "report.html"
    write_report(out, made_up_arms(tmp_path), made_up_samples(), FACTS, made_up_teacher())
    page = Page(out.read_text())
    assert page.tags.count("svg") == 6
    assert page.tags.count("img") == 4
    for text in ("Function matching", "85.8", "0.187", "4,000", "2:40", "2:23"):
        assert text in page.text, text
    for text in ("jax <0.10>", "python -m distill --config a.py:tiny", "mixup 0.70"):
        assert text in page.text, text
    assert "Highest test accuracy: Consistent with 85.8%" in page.text
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_equal_input_gives_equal_bytes(tmp_path):
    arms = made_up_arms(tmp_path)
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, arms, made_up_samples(), FACTS)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_partial_runs_give_a_report(tmp_path):
    whole = made_up_arms(tmp_path)[2]
    rows = [
        {"kind": "event", "message": "resumed & <well>"},
        {"kind": "train", "step": 50, "distance": "nan", "seconds": 2.0},
        {"kind": "eval", "step": 50, "validation/kl": "inf", "validation/accuracy": 0.1},
    ]
    begun = Arm("funmatch", "Function <matching>", rows, {"test/kl": "nan"}, 2.0)
    absent = read_arm(tmp_path / "nowhere", "labels", "Labels")
    write_report(tmp_path / "report.html", [absent, begun, whole], made_up_samples()[:1], {})
    page = Page((tmp_path / "report.html").read_text())
    assert "Function <matching>, resumed & <well>" in page.text
    assert "nan" in page.text
    assert page.tags.count("svg") == 6
    assert absent.rows == []
    assert absent.seconds is None


def test_nothing_at_all_gives_a_report(tmp_path):
    write_report(tmp_path / "report.html", [], [], {})
    page = Page((tmp_path / "report.html").read_text())
    assert page.text.count("no values yet") == 6
    assert "Highest" not in page.text


def test_an_arm_is_read_from_its_folder_without_the_line_cut_short(tmp_path):
    rows = rows_of(*ARMS["funmatch"][1:], num_steps=400)
    rows.append({"step": 400, "kind": "eval", "test/kl": 0.5})
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 450, "kind": "tra'
    (tmp_path / "metrics.jsonl").write_text(text)
    arm = read_arm(tmp_path, "funmatch", "Function matching")
    assert arm.rows == rows
    assert arm.seconds == pytest.approx(0.04 * 400)
    assert arm.final["test/kl"] == 0.5
    assert arm.final["test/accuracy"] == 0.849
    assert "step" not in arm.final


def test_the_table_marks_the_best_of_each_column_among_the_students(tmp_path):
    lines = format_table(made_up_arms(tmp_path), made_up_teacher()).splitlines()
    assert lines[0] == "Results"
    assert lines[1].split()[3:8] == ["Test", "top-1", "%", "Agreement", "%"]
    assert [line.strip().split("  ")[0] for line in lines[2:7]] == [
        "Labels", "Fixed teacher", "Consistent", "Function matching", "Teacher"
    ]  # fmt: skip
    starred = [re.findall(r"(\S+)\*", line) for line in lines[2:7]]
    assert starred == [[], [], ["85.8", "90.1", "0.231", "2.1"], ["0.187"], []]
    assert len({len(line.rstrip("*")) for line in lines[2:7]}) == 1
    assert lines[7:] == ["  *: best of its column among the students."]


def test_a_lone_arm_is_the_best_of_nothing():
    arm = Arm("labels", "Labels", [], {"test/accuracy": 0.5}, None)
    assert "*" not in format_table([arm, arm._replace(final={})])


def test_names_captions_facts_and_events_stay_texts(tmp_path):
    rows = [{"kind": "event", "step": 3, "message": HARM}]
    arm = Arm(HARM, HARM, rows, {"test/accuracy": 0.5}, None)
    other = arm._replace(rows=[], final={"test/accuracy": 0.25})
    sample = made_up_samples()[0]._replace(title=HARM, caption=HARM)
    write_report(tmp_path / "a.html", [arm, other], [sample], {HARM: HARM, HARM + "s": [HARM]}, arm)
    shown = Page((tmp_path / "a.html").read_text())
    # The result; three rows of the table; the picture; two facts; an event.
    assert shown.text.count(HARM) == 1 + 3 + 2 + 4 + 2
    assert shown.names[-1] == HARM


def test_durations_are_read_easily():
    assert [figures.duration(s) for s in (None, 8.4, 60, 3599.6, 3725)] == [
        figures.MISSING, "0:08", "1:00", "1:00:00", "1:02:05"
    ]  # fmt: skip


def test_a_divergence_of_nothing_is_not_below_zero():
    kl = next(column for column in figures.COLUMNS if column.title == "KL clean")
    assert figures.shown(-1e-7, kl) == "0.000"
    assert figures.shown(-0.02, kl) == "-0.020"
