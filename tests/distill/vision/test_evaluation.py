import jax
import numpy as np
import pytest

from configs import distill_vision
from distill.vision import experiment
from distill.vision.rules import RULES
from moshijax import shard
from moshijax.train.evaluators import evaluate, numbers, sums_over


def metrics_of(config, count):
    """A random student's metrics on the sets of a config, on so many devices."""
    mesh = shard.make_mesh(config.mesh, jax.devices()[:count])
    parts = experiment.prepare(config, mesh, train=False)
    state = shard.place(parts.task.init(jax.random.key(0)), mesh, RULES)
    sets = sums_over(parts.fidelity, parts.sets, mesh)
    return numbers(evaluate(sets, state, parts.task.frozen, jax.random.key(0), mesh))


def test_metrics_are_those_of_any_batch_size_on_any_mesh_but_for_mixed_images():
    config = distill_vision.get_config("tiny")
    config.evaluation.sets = dict(test="test[:21]", one="test[:1]")
    config.evaluation.batch_size, config.mesh = 5, dict(data=1)
    one = metrics_of(config, 1)
    config.evaluation.batch_size, config.mesh = 12, dict(data=2, fsdp=4)
    eight = metrics_of(config, 8)
    assert one["test/count"] == 21
    assert one["one/count"] == 1
    clean = {name for name in one if "/mixed_" not in name}
    assert clean == {name for name in eight if "/mixed_" not in name}
    assert {"test/kl", "test/accuracy", "test/ece", "one/agreement"} <= clean
    for name in clean:
        assert one[name] == pytest.approx(eight[name], rel=1e-4, abs=1e-6), name
    # Pairs are of rows of a batch: those of padding are none, a lone image has none.
    assert (one["test/mixed_count"], eight["test/mixed_count"]) == (20, 20)
    assert not [name for name in one.keys() | eight.keys() if name.startswith("one/mixed_")]


def test_the_quickstarts_config_is_evaluated_on_eight_devices():
    config = distill_vision.get_config("quickstart,arm=teacher")
    config.evaluation.sets = dict(validation="train[13000:13010]", test="test[:3]")
    assert config.evaluation.batch_size % 8
    found = metrics_of(config, 8)
    assert found["validation/count"] == 10
    assert all(np.isfinite(value) for value in found.values())
