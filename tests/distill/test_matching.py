import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import loop, vision
from distill.matching import DistillTask, Head


ROWS, FRAMES, WIDTH = 8, 3, 5
CLASSES = {"text": 4, "audio": 6}


class Streams:
    """Two heads over frames: one that is masked and weighed by frame, one weighed as a whole."""

    def __init__(self, labelled=True):
        self.labelled = labelled

    def view(self, batch, key):
        # One noise for all models and for the whole batch, whatever its pieces.
        noise = jax.random.normal(key, batch["frames"].shape)
        return batch | {"frames": batch["frames"] + noise}

    def logits(self, name, model, view):
        text, audio = (view["frames"] @ model[which] for which in CLASSES)
        if name == "teacher":  # What is said of padding is nobody's business.
            text = jnp.where(view["mask"][..., None], text, jnp.nan)
        return {"text": Head(text, view["mask"], view["weight"]), "audio": Head(audio, None, 0.25)}

    def label_losses(self, view, logits):
        return {"text": view["cost"]} if self.labelled else {}


def make(key):
    keys = dict(zip(CLASSES, jax.random.split(key), strict=True))
    return {n: jax.random.normal(keys[n], (WIDTH, CLASSES[n])) for n in CLASSES}


def task(accumulate=1, distance="kl", matcher=None):
    optimizer = loop.adam(0.1, 0.0, 0) | dict(decay=((r".*", 0.0),))
    config = ConfigDict(
        dict(loss=vision.loss(distance, 2.0), accumulate=accumulate, average=None, num_steps=4)
    )
    config.optimizers = dict(model=optimizer)
    return DistillTask(config, matcher or Streams(), make, (), {"teacher": make(jax.random.key(7))})


def batch():
    rng = np.random.default_rng(0)
    mask = np.ones((ROWS, FRAMES), bool)
    mask[:3] = False  # Three rows are padding, others are in part.
    mask[3:5, 1:] = False
    arrays = dict(
        frames=rng.normal(size=(ROWS, FRAMES, WIDTH)),
        weight=rng.uniform(0.1, 100, (ROWS, FRAMES)),
        cost=rng.uniform(size=(ROWS, FRAMES)),
    )
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    arrays["cost"] = jnp.where(jnp.asarray(mask), arrays["cost"], jnp.nan)
    return arrays | {"mask": jnp.asarray(mask)}


def gradients(one, rows):
    model = make(jax.random.key(1))
    return jax.jit(one.gradients)(model, one.frozen, rows)


@pytest.fixture(scope="module")
def view():
    return Streams().view(batch(), jax.random.key(3))


@pytest.fixture(scope="module")
def whole(view):
    return gradients(task(), view)


def test_the_loss_is_the_weighted_mean_over_what_counts_of_all_heads(view, whole):
    student, teacher = make(jax.random.key(1)), make(jax.random.key(7))
    costs = {}
    for name in CLASSES:
        p = jax.nn.softmax(view["frames"] @ teacher[name] / 2.0)
        q = jax.nn.softmax(view["frames"] @ student[name] / 2.0)
        costs[name] = 4.0 * np.asarray(jnp.sum(p * jnp.log(p / q), axis=-1))
    weight = np.where(view["mask"], view["weight"], 0.0)
    numerators = {"text": (weight * costs["text"]).sum(), "audio": 0.25 * costs["audio"].sum()}
    totals = {"text": weight.sum(), "audio": 0.25 * ROWS * FRAMES}
    metrics = whole[1]
    wanted = sum(numerators.values()) / sum(totals.values())
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
    for name in CLASSES:
        own = numerators[name] / totals[name]
        np.testing.assert_allclose(metrics[f"{name}_distance"], own, rtol=1e-5)
    labels = (weight * np.where(view["mask"], view["cost"], 0.0)).sum() / totals["text"]
    np.testing.assert_allclose(metrics["label_loss"], labels, rtol=1e-5)


def test_pieces_of_a_batch_change_neither_gradients_nor_metrics(view, whole):
    for ours, theirs in zip(
        jax.tree.leaves(gradients(task(accumulate=4), view)), jax.tree.leaves(whole), strict=True
    ):
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_batch_of_which_nothing_counts_in_a_head_teaches_that_head_nothing(view):
    nothing = view | {"mask": jnp.zeros_like(view["mask"])}
    grads, metrics = gradients(task(accumulate=2), nothing)
    np.testing.assert_array_equal(grads["text"], 0.0)
    assert np.any(grads["audio"] != 0)
    assert metrics["text_distance"] == 0
    assert np.isfinite(metrics["loss"])


def test_all_models_see_one_view_of_the_key(view, whole):
    one = task()
    state = one.init(jax.random.key(1))
    state = state._replace(model=make(jax.random.key(1)))
    update = jax.jit(functools.partial(one.update, "any"))
    new, metrics = update(state, one.frozen, batch(), jax.random.key(3))
    np.testing.assert_allclose(metrics["loss"], whole[1]["loss"], rtol=1e-6)
    assert np.any(new.model["audio"] != state.model["audio"])


def test_teachers_without_the_students_heads_are_refused(view):
    class Silent(Streams):
        def logits(self, name, model, view):
            heads = super().logits(name, model, view)
            return {"text": heads["text"]} if name == "teacher" else heads

    with pytest.raises(ValueError, match=r"teacher has the heads \['text'\], the student \['audio"):
        gradients(task(matcher=Silent()), view)


def test_a_matcher_without_labels_cannot_be_learned_from_labels(view):
    with pytest.raises(ValueError, match="the matcher has no labels"):
        gradients(task(distance="labels", matcher=Streams(labelled=False)), view)
