import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import distill_vision
from distill.vision import classes, convert, evaluation, sources, teachers
from distill.vision.measure import Fidelity
from moshijax.nn.paths import named_leaves
from moshijax.train import loop
from moshijax.train.learner import State
from tests.distill.vision.parts import build


def config(switches="tiny", **changes):
    c = distill_vision.get_config(switches)
    c.batch_size = 8
    for key, value in changes.items():
        c[key] = value
    return c


def made(tmp_path, **options):
    c = config(**options)
    return c, *build(c, tmp_path)


def step(task, data, number=1):
    state = task.init(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, data.batch(number, 0, None))
    return (
        state,
        batch,
        *jax.jit(functools.partial(task.update, "images"))(
            state, task.frozen, batch, jax.random.key(1)
        ),
    )


def fidelity(sets):
    return Fidelity(sets["test"].keys, "logits")


@pytest.fixture(scope="module")
def funmatch(tmp_path_factory):
    c, task, data, sets = made(tmp_path_factory.mktemp("funmatch"))
    return c, task, data, sets, *step(task, data)


def test_loss_is_the_distance_on_the_very_same_mixed_view(funmatch):
    c, task, _data, _, state, batch, _, metrics = funmatch
    assert batch["mix"] < 1
    key = task.matcher.keys["student"]
    assert key == task.matcher.keys["teacher"]
    floats = np.float32(batch["images"][key]) / 127.5 - 1
    mixed = batch["mix"] * floats + (1 - batch["mix"]) * np.roll(floats, 1, axis=0)
    teacher = task.frozen["teacher"](mixed)[0] / c.loss.temperature
    student = state.model(mixed)[0] / c.loss.temperature
    p, q = jax.nn.softmax(teacher), jax.nn.softmax(student)
    by_hand = c.loss.temperature**2 * jnp.mean(jnp.sum(p * jnp.log(p / q), axis=-1))
    np.testing.assert_allclose(metrics["loss"], by_hand, rtol=1e-4)


def test_a_set_of_one_image_has_no_mixed_metrics(funmatch):
    _, task, _, sets, state, *_ = funmatch
    batch = sets["test"].batch(0, None)
    batch["mask"] = (np.arange(len(batch["mask"])) == 0).astype(np.float32)
    told = fidelity(sets)
    metrics = told.summarize(jax.device_get(jax.jit(told.evaluate)(state, task.frozen, batch)))
    assert metrics["count"] == 1
    assert not [name for name in metrics if name.startswith("mixed_")]


def test_only_the_student_changes(funmatch):
    _, _task, _, _, state, _, new, metrics = funmatch
    before, after = named_leaves(state.model), named_leaves(new.model)
    assert np.any(after["head/kernel"] != before["head/kernel"])
    assert {"loss", "distance", "label_loss", "entropy", "teacher_entropy", "grad_norm"} <= set(
        metrics
    )
    assert "teacher" not in "".join(named_leaves(new))


def test_accumulated_update_equals_a_whole_one(funmatch, tmp_path):
    _, _, data, _, _, _, whole, metrics = funmatch
    _, task, _, _ = made(tmp_path, accumulate=4)
    _, _, pieces, others = step(task, data)
    np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-5)
    for (name, a), b in zip(
        named_leaves(pieces.model).items(), named_leaves(whole.model).values(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)


def test_evaluation_ignores_padding_and_reports_mixed_inputs(funmatch):
    _, task, _, sets, state, *_ = funmatch
    data = sets["test"]
    told = fidelity(sets)
    evaluate = jax.jit(told.evaluate)
    sums = [evaluate(state, task.frozen, data.batch(i, None)) for i in range(data.num_batches)]
    metrics = told.summarize(jax.device_get(jax.tree.map(lambda *s: sum(s), *sums)))
    assert metrics["count"] == 100
    assert metrics["mixed_count"] == 99  # 64 pairs, and 36 rows of which the first's is padding
    assert 0 <= metrics["accuracy"] <= 1
    assert metrics["kl"] > 0
    garbage = data.batch(1, None)
    garbage["images"] = {
        name: np.where(garbage["mask"][:, None, None, None] > 0, x, 255).astype(np.uint8)
        for name, x in garbage["images"].items()
    }
    for a, b in zip(
        jax.tree.leaves(evaluate(state, task.frozen, garbage)),
        jax.tree.leaves(sums[1]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_cached_plans_give_the_live_loss(funmatch, tmp_path):
    c, task, live, *_, metrics = funmatch
    c = c.copy_and_resolve_references()
    c.cache = dict(folder=str(tmp_path / "cache"), num_plans=2)
    cached_task, cached, _ = build(c, tmp_path)
    assert sorted(p.name for p in (tmp_path / "cache").glob("*.npz")) == [
        "0000000.npz",
        "0000001.npz",
    ]
    _, batch, _, others = step(cached_task, cached)
    np.testing.assert_array_equal(
        batch["images"][task.matcher.keys["student"]],
        live.batch(1, 0, None)["images"][task.matcher.keys["student"]],
    )
    np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-5)
    again = cached.batch(3, 0, np.array([1, 5]))
    np.testing.assert_array_equal(again["index"], batch["index"][np.array([1, 5])])
    assert not np.array_equal(cached.batch(1, 1, None)["index"], batch["index"])
    c.mixup = 0.5
    with pytest.raises(ValueError, match=r"caches another teacher or view \(mixup 1.0, not 0.5\)"):
        build(c, tmp_path)


def test_fixed_teacher_has_one_answer_per_image(tmp_path):
    _c, task, data, _ = made(tmp_path, switches="tiny,arm=fixed,view=fix/ic_ens")
    batch = data.batch(1, 0, None)
    other = next(
        b
        for b in (data.batch(s, 0, None) for s in range(2, 90))
        if np.isin(b["index"], batch["index"]).any()
    )
    row = np.flatnonzero(np.isin(other["index"], batch["index"]))[0]
    first = np.flatnonzero(batch["index"] == other["index"][row])[0]
    np.testing.assert_array_equal(
        batch["teacher_logits"]["teacher"][first], other["teacher_logits"]["teacher"][row]
    )
    table = np.load(tmp_path / "fixed_targets.npz")["teacher"]
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1, rtol=1e-5)
    assert table.shape == (256, 10)
    metrics = step(task, data)[-1]
    assert metrics["loss"] > 0


def test_mixup_with_a_fixed_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images cannot be mixed"):
        made(tmp_path, switches="tiny,arm=fixed", mixup=1.0)


def test_labels_are_mixed_as_the_images_are(tmp_path):
    _, task, data, _ = made(tmp_path, switches="tiny,arm=labels", mixup=1.0)
    _state, batch, _, metrics = step(task, data)
    # A head of zeros gives every class the same probability.
    np.testing.assert_allclose(metrics["loss"], np.log(10), rtol=1e-5)
    assert batch["mix"] < 1
    assert "distance" not in metrics


def test_several_teachers_of_several_resolutions(tmp_path):
    from configs import distill_imagenet

    c = distill_imagenet.get_config("tiny,teacher=ensemble,resolution=160")
    task, data, _ = build(c, tmp_path)
    batch = data.batch(1)
    sizes = {name: batch["images"][key].shape[1] for name, key in task.matcher.keys.items()}
    assert sizes == {"student": 22, "t224": 32, "t384": 54}
    assert list(task.frozen) == ["t224", "t384"]


def test_wrong_experiments_are_refused_in_one_sentence(tmp_path):
    for changes, message in (
        (
            dict(
                loss=dict(
                    distance="kll",
                    temperature=1.0,
                    options={},
                    combine="logits",
                    label_smoothing=0.0,
                )
            ),
            "loss.distance: 'kll' is unknown",
        ),
        (dict(teachers={}), "needs a teacher"),
        (dict(view="same/xx"), "same/xx"),
    ):
        with pytest.raises(ValueError, match=message):
            made(tmp_path, **changes)


def test_models_that_do_not_fit_are_refused(tmp_path):
    c = config()
    c.student.overrides.num_classes = 7
    with pytest.raises(ValueError, match="student: 7 classes do not fit the 10 of"):
        build(c, tmp_path)
    c = config()
    c.student.preset = "r51"
    with pytest.raises(ValueError, match="preset: 'r51' is unknown, take one of r50x1"):
        build(c, tmp_path)
    with c.unlocked():
        c.student.preset, c.student.overrides.depth = "tiny", 3
    with pytest.raises(ValueError, match="depth"):
        build(c, tmp_path)


def test_model_of_another_run_is_a_teacher_and_a_wrong_one_is_refused(tmp_path):
    c = config("tiny,arm=teacher", num_steps=6)
    state = loop.run(c, str(tmp_path / "teacher"))
    (tmp_path / "teacher" / "exported.safetensors").write_bytes(b"")
    student = config()
    student.teachers.teacher.load = str(tmp_path / "teacher")
    loaded = teachers.load_model(student.teachers.teacher, 0)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(state.model), strict=True):
        np.testing.assert_array_equal(a, b)
    student.teachers.teacher.preset = "small_student"
    with pytest.raises(ValueError, match="holds another model"):
        teachers.load_model(student.teachers.teacher, 0)
    student.teachers.teacher.load = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match="nor a work directory: fetch"):
        teachers.load_model(student.teachers.teacher, 0)
    start = config("tiny", num_steps=6)
    start.student.load = str(tmp_path / "teacher")
    start.optimizers.model.learning_rate = start.optimizers.model.weight_decay = 0.0
    begun = loop.run(start, str(tmp_path / "start"))
    for a, b in zip(jax.tree.leaves(begun.model), jax.tree.leaves(state.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_is_a_tree_of_arrays_alone(funmatch):
    state = funmatch[4]
    assert isinstance(state, State)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


def test_student_is_evaluated_from_its_directory_and_its_exported_file(tmp_path):
    c = config("tiny,arm=teacher", num_steps=6)
    loop.run(c, str(tmp_path / "run"))
    assert classes.of_run(str(tmp_path / "run")) == sources.SAMPLE_CLASSES
    metrics = evaluation.evaluate(c, str(tmp_path / "run"))
    assert metrics["test/count"] == 100
    spec = c.student.copy_and_resolve_references()
    spec.load = str(tmp_path / "run")
    convert.save_npz(tmp_path / "student.npz", teachers.load_model(spec, 0), "bit")
    assert evaluation.evaluate(c, str(tmp_path / "student.npz"), with_teachers=False) == metrics
