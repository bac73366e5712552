import functools
import threading

import jax
import jax.numpy as jnp
import pytest

from configs import distill_vision
from distill.vision import experiment
from moshijax import shard
from moshijax.nn.paths import named_leaves
from tests.distill.vision.parts import build


def shapes(tree):
    return {name: (jnp.shape(x), x.dtype.name) for name, x in named_leaves(tree).items()}


@pytest.mark.parametrize("arm", ["funmatch", "fixed", "labels"])
def test_plan_has_the_shapes_of_what_is_trained(arm, tmp_path):
    config = distill_vision.get_config(f"tiny,arm={arm}")
    planned = experiment.make(config, shard.abstract_mesh())
    task, data, _ = build(config, tmp_path)
    batch = data.batch(1, 0, None)
    assert shapes(batch) == shapes(planned.batches["images"])
    key = jax.random.key(0)
    state = jax.eval_shape(task.init, key)
    real = jax.eval_shape(functools.partial(task.update, "images"), state, task.frozen, batch, key)
    told = jax.eval_shape(
        functools.partial(planned.task.update, "images"),
        state,
        planned.task.frozen,
        planned.batches["images"],
        key,
    )
    assert shapes(real) == shapes(told)
    assert planned.counts == {"images": {"images": 16}}


def test_cached_plans_come_with_logits_and_without_the_teachers_images(tmp_path):
    config = distill_vision.get_config("tiny")
    config.cache.folder = str(tmp_path)
    assert experiment.batch_shapes(config)["teacher_logits"]["teacher"].shape == (16, 10)


def test_a_closed_distillation_has_no_threads(tmp_path):
    config = distill_vision.get_config("tiny")
    config.data.threads = 2
    before = set(threading.enumerate())
    _, data, sets = build(config, tmp_path)
    data.batch(1, 0, None)
    sets["test"].batch(0)
    own = set(threading.enumerate()) - before
    assert len(own) >= 4
    data.close()
    for thread in own:
        thread.join(10)
    assert not any(thread.is_alive() for thread in own)
