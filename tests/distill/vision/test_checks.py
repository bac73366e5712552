import json

import jax.numpy as jnp
import numpy as np
import pytest

from configs import distill_vision
from distill import distances
from distill.vision import checks, convert, evaluation, teachers
from moshijax.system.errors import UserError
from moshijax.train import loop


def config(changes, switches="tiny"):
    c = distill_vision.get_config(switches)
    c.data.train, c.evaluation.sets = "train[:16]", dict(test="test[:8]")
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("view", "same/xx"),
        ("mixup", -1.0),
        ("mixup", float("nan")),
        ("loss.temperature", 0.0),
        ("loss.temperature", -2.0),
        ("loss.temperature", float("inf")),
        ("fixed_draws", -1),
        ("cache.num_plans", 0),
        ("cache.num_plans", -3),
        ("student.resolution", 0),
        ("student.resolution", 1_000_000),
        ("teachers.teacher.resolution", -28),
        ("data.threads", 0),
        ("data.channels", 2),
        ("data.margin", 0.5),
        ("data.margin", float("nan")),
        ("data.inception", "torch"),
        ("data.on_corrupt", "ignore"),
        ("evaluation.margin", 0.0),
        ("evaluation.crop", "rc"),
        ("evaluation.batch_size", 0),
    ],
)
def test_values_that_no_run_can_have_are_refused_by_their_key(key, value):
    with pytest.raises(UserError, match=rf"^config\.{key}: .* is refused: set --config\.{key} to"):
        checks.check(config({key: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.overrides.num_classes": 0}, "num_classes is 0"),
        ({"student.overrides.num_groups": 0}, "num_groups is 0"),
        ({"student.overrides.width": -4}, "width is -4"),
        ({"student.overrides.stage_sizes": (1, 0)}, r"stage_sizes are \(1, 0\)"),
        ({"student.overrides.dtype": "int8"}, "dtype is 'int8'"),
        ({"loss.distance": "kll"}, "loss.distance: 'kll' is unknown"),
        ({"loss.combine": "votes"}, "loss: cannot combine teachers by 'votes'"),
        ({"loss.label_smoothing": 1.0}, "loss.label_smoothing to a number from 0 to below 1"),
        ({"loss.options": {"beta": 2.0}, "loss.distance": "jsd"}, "loss: beta is 2.0"),
        ({"loss.options": {"bta": 2.0}}, "loss: .*unexpected keyword argument 'bta'"),
        ({"data.channels": 3}, "set --config.data.channels=1, or overrides.in_channels"),
        ({"data.train": "train[5:5]"}, "is empty"),
        ({"evaluation.sets": {"test": "nowhere"}}, "has no split 'nowhere'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        loop.run(config(changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_experiment_without_evaluation_sets_is_refused():
    c = config({})
    c.final_sets = ()
    del c.evaluation.sets.test
    with pytest.raises(UserError, match=r"config\.evaluation\.sets: there is none"):
        checks.check(c)


def test_a_missing_start_of_a_student_is_found_before_the_run_begins(tmp_path):
    with pytest.raises(UserError, match="nor a work directory: fetch"):
        loop.run(config({"student.load": "nowhere"}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_kind_is_told_by_its_kind(tmp_path):
    spec = config({"student.load": str(tmp_path)}).student
    with pytest.raises(UserError, match=r"is no work directory \(it has no config.json\)"):
        teachers.load_model(spec, 0)
    (tmp_path / "config.json").write_text(json.dumps(dict(experiment="moshijax.train.lm")))
    with pytest.raises(UserError, match=r"is a run of moshijax.train.lm, not of distill"):
        teachers.load_model(spec, 0)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        teachers.load_model(spec, 0)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    c = config({})
    path = tmp_path / "x.npz"
    convert.save_npz(path, teachers.load_model(c.student, 0), "bit")
    with np.load(path) as file:
        arrays = dict(file)
    arrays["resnet/head/conv2d/bias"][3] = np.nan
    np.savez(path, **arrays)
    c.student.load = str(path)
    with pytest.raises(UserError, match=r"x.npz: resnet/head/conv2d/bias holds nan"):
        teachers.load_model(c.student, 0)
    arrays["resnet/head/conv2d/bias"] = np.zeros(10, np.complex64)
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"resnet/head/conv2d/bias is of type complex64"):
        teachers.load_model(c.student, 0)


def test_the_first_none_is_no_choice():
    with pytest.raises(ValueError, match="k is 0; at least the first choice counts"):
        distances.in_top(jnp.zeros((1, 3)), jnp.zeros(1, jnp.int32), 0)


def test_an_export_onto_the_student_or_nowhere_is_refused_before_it_is_evaluated(
    tmp_path, monkeypatch
):
    (tmp_path / "student.npz").write_bytes(b"weights")
    for target, message in (
        ("student.npz", "is the student itself"),
        ("none/student.npz", "there is no folder"),
    ):
        with pytest.raises(UserError, match=message):
            evaluation.check_export(str(tmp_path / target), str(tmp_path / "student.npz"))
    evaluation.check_export(str(tmp_path / "new.npz"), str(tmp_path / "student.npz"))
