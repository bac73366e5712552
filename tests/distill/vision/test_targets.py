import shutil

import numpy as np
import pytest

from configs import distill_vision
from distill import cache, npz
from distill.vision import convert, teachers
from moshijax.system.errors import UserError
from tests.distill.vision.parts import build


def teacher(path, seed):
    """A random teacher in a file."""
    c = distill_vision.get_config("tiny")
    convert.save_npz(path, teachers.load_model(c.teachers.teacher, seed), "bit")


def config(tmp_path, switches="tiny"):
    c = distill_vision.get_config(switches)
    c.batch_size, c.data.train = 8, "train[:16]"
    c.evaluation.sets = dict(test="test[:8]")
    c.evaluation.batch_size = 8
    c.teachers.teacher.load = str(tmp_path / "teacher.npz")
    if "fixed" not in switches:
        c.cache = dict(folder=str(tmp_path / "cache"), num_plans=2)
    return c


def logits(c, tmp_path):
    return build(c, tmp_path)[1].batch(1, 0, None)["teacher_logits"]["teacher"]


@pytest.mark.parametrize("switches", ["tiny", "tiny,arm=fixed"])
def test_targets_of_another_teacher_under_the_same_path_are_refused(tmp_path, switches):
    teacher(tmp_path / "teacher.npz", seed=0)
    first = logits(config(tmp_path, switches), tmp_path)
    teacher(tmp_path / "teacher.npz", seed=1)
    with pytest.raises(UserError, match=r"another teacher .*teachers.teacher.weights '\w+', not"):
        logits(config(tmp_path, switches), tmp_path)
    teacher(tmp_path / "teacher.npz", seed=0)
    np.testing.assert_array_equal(logits(config(tmp_path, switches), tmp_path), first)


def test_targets_belong_to_a_teacher_wherever_it_lies(tmp_path):
    teacher(tmp_path / "teacher.npz", seed=0)
    c = config(tmp_path)
    first = logits(c, tmp_path)
    (tmp_path / "teacher.npz").rename(tmp_path / "moved.npz")
    c.teachers.teacher.load = str(tmp_path / "moved.npz")
    np.testing.assert_array_equal(logits(c, tmp_path), first)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("seed", 1, "seed 0, not 1"),
        ("view", "same/ic", "view 'same/rc', not 'same/ic'"),
        ("data.margin", 1.5, "data.margin .*, not 1.5"),
        ("data.train", "train[4:20]", "images "),
        ("teachers.teacher.resolution", 32, "teachers.teacher.resolution 28, not 32"),
    ],
)
def test_targets_of_other_views_and_images_are_refused(tmp_path, key, value, what):
    teacher(tmp_path / "teacher.npz", seed=0)
    logits(config(tmp_path), tmp_path)
    c = config(tmp_path)
    c.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=what):
        build(c, tmp_path)


def test_plans_of_another_cache_are_refused_before_a_step(tmp_path):
    teacher(tmp_path / "teacher.npz", seed=0)
    logits(config(tmp_path), tmp_path)
    other = config(tmp_path)
    other.seed, other.cache.folder = 1, str(tmp_path / "other")
    logits(other, tmp_path)
    shutil.copy(tmp_path / "cache/0000001.npz", tmp_path / "other/0000001.npz")
    with pytest.raises(UserError, match=r"0000001.npz caches another .*seed 0, not 1"):
        build(other, tmp_path)
    (tmp_path / "other/0000001.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"0000001.npz is not a whole npz file.*make it again"):
        build(other, tmp_path)
    (tmp_path / "other/cache.json").write_text("{")
    with pytest.raises(UserError, match=r"cache.json is damaged"):
        build(other, tmp_path)


def test_plans_without_facts_are_refused(tmp_path):
    teacher(tmp_path / "teacher.npz", seed=0)
    logits(config(tmp_path), tmp_path)
    path = tmp_path / "cache/0000000.npz"
    arrays = npz.read_stored(path)
    del arrays[cache.FACTS]
    npz.save(path, arrays)
    with pytest.raises(UserError, match=r"0000000.npz caches another"):
        build(config(tmp_path), tmp_path)
