import gzip
import json

import jax
import pytest

from moshijax.train.log import read_metrics
from moshijax.train.trace import parse_steps
from tests.train.test_loop import run
from tests.train.toy import ToyData, ToyTask, config


def test_steps_are_read():
    assert parse_steps("steps=10..12", 12) == range(10, 13)
    assert parse_steps("steps=3", 12) == range(3, 4)


@pytest.mark.parametrize("text", ["10..12", "steps=", "steps=a..b", "steps=1..2..3"])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match=r"profile: .* is not like steps=10..12"):
        parse_steps(text, 100)


@pytest.mark.parametrize("text", ["steps=0..3", "steps=5..4", "steps=11..13"])
def test_steps_that_the_run_does_not_have_are_refused(text):
    with pytest.raises(ValueError, match="are not steps of this run: take some from 1 to 12"):
        parse_steps(text, 12)


def traced_steps(folder):
    """Step numbers and names of the events of the only trace."""
    (file,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    numbers = {e["args"]["step_num"] for e in events if "step_num" in e.get("args", {})}
    return sorted(int(n) for n in numbers), {e.get("name", "") for e in events}


def test_trace_holds_the_steps_asked_for_and_the_names_of_their_parts(tmp_path):
    run(tmp_path, profile="steps=4..6")
    steps, names = traced_steps(tmp_path / "profile" / "process_000")
    assert steps == [4, 5, 6]
    assert "train" in names
    said = [r.get("message", "") for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert f"trace written to {tmp_path / 'profile'}." in said


def test_steps_that_are_past_are_said_to_be(tmp_path):
    run(tmp_path)
    run(tmp_path, profile="steps=1..2")
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]["message"]
    assert last == "no trace: steps=1..2 is past, take later steps."


def test_parts_of_an_update_have_the_names_of_the_code():
    task = ToyTask(config())
    state = jax.eval_shape(task.init, jax.random.key(0))
    lowered = jax.jit(task.update, static_argnums=0).lower(
        "pairs", state, task.frozen, ToyData().batch(1), jax.random.key(0)
    )
    text = lowered.as_text(debug_info=True)
    for name in ("jit(update)/jvp(loss)", "jit(update)/transpose(jvp(loss))", "update)/optimizer"):
        assert name in text
