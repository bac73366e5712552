import jax
import numpy as np
import pytest

from configs import moshi
from moshijax import shard
from moshijax.experiments import lm as experiment
from moshijax.lm.rules import RULES
from moshijax.system.errors import UserError
from moshijax.train.evaluators import evaluate, numbers
from tests.lm_models import random_model


def metrics_of(batch_size, sets, shape, count):
    """A random Moshi's metrics on sets of made windows, on so many devices."""
    config = moshi.get_config("tiny")
    config.update(num_steps=10, mesh=shape)
    config.evaluation.update(sets=sets, batch_size=batch_size)
    mesh = shard.make_mesh(shape, jax.devices()[:count])
    made = experiment.make(config, mesh)
    state = jax.eval_shape(made.task.init, jax.random.key(0))
    model = shard.place(random_model("moshi_7b"), mesh, RULES)
    state = state._replace(model=model, optimizers=None)
    values = evaluate(made.evaluators, state, made.task.frozen, jax.random.key(0), mesh)
    return numbers(values)


def test_a_language_models_metrics_are_those_of_any_batch_size_on_any_mesh():
    sets = dict(test="made:5", one="made:1")
    one = metrics_of(2, sets, dict(data=1), 1)
    eight = metrics_of(3, sets, dict(data=2, fsdp=2, tensor=2), 8)
    assert one.keys() == eight.keys()
    assert {name.partition("/")[0] for name in one} == {"test", "one"}
    for name, value in one.items():
        assert np.isfinite(value), name
        assert value == pytest.approx(eight[name], rel=2e-5), name


def test_an_evaluator_that_yields_a_name_twice_is_refused():
    def twice(state, frozen, key, mesh):
        yield "loss", 1.0
        yield "loss", 2.0

    with pytest.raises(UserError, match="evaluation set yields two values called 'loss'"):
        list(evaluate({"set": twice}, {}, {}, jax.random.key(0), shard.make_mesh({"data": 8})))
