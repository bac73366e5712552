import pathlib

import cv2
import numpy as np
import pytest

from configs import distill_vision
from distill.vision import classes, sources
from moshijax.system.errors import UserError
from moshijax.train import loop
from tests.distill.vision.parts import build


def source(*names, name="images"):
    images, labels = np.zeros((len(names), 8, 8, 1), np.uint8), np.arange(len(names))
    return sources.ArraySource(name, images, labels, names)


def agree(train, *sets, runs=None, by_labels=True, num_classes=3):
    return classes.agree(runs or {}, train, sets, num_classes, by_labels)


TRAIN = source("ant", "bee", "cat", name="train")


def test_evaluation_images_may_lack_classes_and_are_counted_by_those_of_training():
    assert agree(TRAIN, source("bee", "cat")) == (TRAIN.class_names, True)
    counted = sources.Renumbered(source("bee", "cat"), TRAIN.class_names)
    assert [counted[k].label for k in range(2)] == [1, 2]


@pytest.mark.parametrize("by_labels", [True, False])
def test_other_classes_are_refused_with_what_each_has_alone(by_labels):
    message = "only the latter has '(ant|dog)', only the former has '(dog|ant)'"
    with pytest.raises(UserError, match=message):
        agree(TRAIN, source("bee", "cat", "dog", name="test"), by_labels=by_labels)


def test_more_classes_than_were_taught_are_refused():
    with pytest.raises(
        UserError, match="test has other classes than train: only the former has 'dog'"
    ):
        agree(TRAIN, source("ant", "bee", "cat", "dog", name="test"))


def test_images_without_labels_that_count_may_be_of_other_things():
    others = source("car", "bus", "van", "tram", name="others")
    assert agree(others, TRAIN, by_labels=False) == (TRAIN.class_names, False)
    assert agree(source("cat", "bee"), TRAIN, by_labels=False) == (TRAIN.class_names, True)
    assert agree(source("x", "y", "z"), TRAIN, by_labels=False) == (TRAIN.class_names, False)
    with pytest.raises(UserError, match="only the latter"):
        agree(others, TRAIN)


def test_names_of_a_run_count_and_runs_must_agree(tmp_path):
    names = ("cat", "bee", "ant")
    assert agree(None, TRAIN, runs={"student": names}) == (names, False)
    with pytest.raises(UserError, match="same names in another order"):
        agree(None, TRAIN, runs={"student": names, "teachers.t": TRAIN.class_names})
    with pytest.raises(UserError, match="than student: only the latter has 'eel'"):
        agree(None, TRAIN, runs={"student": ("ant", "bee", "eel")})


def test_a_run_keeps_its_names_and_goes_on_with_no_others(tmp_path):
    assert classes.of_run(str(tmp_path)) is None
    names = ("ant", "caf\udce9")
    classes.keep(tmp_path, names)
    classes.keep(tmp_path, ("bee",))  # A run that failed at its start has claimed nothing.
    classes.keep(tmp_path, names)
    (tmp_path / "config.json").write_text("{}")
    classes.keep(tmp_path, names)
    assert classes.of_run(str(tmp_path)) == names
    with pytest.raises(UserError, match="only the run has 'ant', only the data has 'bee'"):
        classes.keep(tmp_path, ("bee", "caf\udce9"))
    (tmp_path / classes.FILE).write_text("[1")
    with pytest.raises(UserError, match=r"classes.json is damaged"):
        classes.of_run(str(tmp_path))


def test_labels_that_count_no_class_are_refused_by_row():
    wrong = source("a", "b")
    wrong.labels[1] = -1
    counted = sources.Renumbered(wrong, ("a", "b"))
    assert counted[0].label == 0
    with pytest.raises(UserError, match="Row 1 of images has the label -1, none of its 2 classes"):
        counted[1]


def fill(root: pathlib.Path, *names):
    for level, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(4):
            cv2.imwrite(str(root / name / f"{k}.png"), np.full((12, 12), 80 * level, np.uint8))
    return f"folder:{root}"


def config(train, test, **changes):
    c = distill_vision.get_config("tiny,arm=labels")
    c.data.name, c.data.train, c.data.channels = train, "all", 1
    c.evaluation.name, c.evaluation.sets = test, dict(test="all")
    c.student.overrides.num_classes = 3
    c.teachers, c.optimizers.model.warmup_steps = {}, 0
    c.update(changes)
    return c


def test_folders_of_other_classes_are_refused_before_a_run_begins(tmp_path):
    train = fill(tmp_path / "train", "ant", "bee", "cat")
    test = fill(tmp_path / "test", "bee", "cat", "dog")
    with pytest.raises(UserError, match=r"'ant'.*'dog'"):
        loop.run(config(train, test), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_evaluation_counts_by_the_names_of_the_students_run(tmp_path):
    c = config(sources.SAMPLE, fill(tmp_path / "test", "bee", "cat"))
    (tmp_path / "run").mkdir()
    classes.keep(tmp_path / "run", ("ant", "bee", "cat"))
    c.student.load = str(tmp_path / "run")
    _, _, sets = build(c, tmp_path, train=False)
    batch = sets["test"].batch(0)
    assert batch["label"][batch["mask"] > 0].tolist() == [1] * 4 + [2] * 4
    c.evaluation.name = fill(tmp_path / "other", "bee", "cat", "dog")
    with pytest.raises(UserError, match=r"than student: .*'ant'.*'dog'"):
        build(c, tmp_path, train=False)


def test_evaluation_of_a_file_counts_by_the_training_folder_where_there_is_one(tmp_path):
    train = fill(tmp_path / "train", "ant", "bee", "cat")
    c = config(train, fill(tmp_path / "test", "bee", "cat"))
    _, _, sets = build(c, tmp_path, train=False)
    assert sets["test"].batch(0)["label"].max() == 2
    c.evaluation.name = fill(tmp_path / "other", "bee", "cat", "dog")
    with pytest.raises(UserError, match=r"'ant'.*'dog'|'dog'.*'ant'"):
        build(c, tmp_path, train=False)


def test_a_set_of_other_classes_than_the_model_is_refused(tmp_path):
    c = config(sources.SAMPLE, fill(tmp_path / "test", "bee", "cat"))
    with pytest.raises(UserError, match="student: 3 classes do not fit the 2 of folder:"):
        build(c, tmp_path, train=False)
