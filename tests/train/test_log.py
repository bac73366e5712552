import json

import cv2
import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.util import tensor_util

from moshijax.pod import hosts
from moshijax.system.errors import UserError
from moshijax.train.log import Log, read_metrics
from moshijax.train.values import Figure, Sound


SOUND = Sound(np.float32([[0.5, -0.25], [2.0, -2.0], [0.0, 0.125]]), 24000)
FIGURE = Figure(np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]]))


def evaluate(workdir, *values):
    with Log(workdir, 4, "windows") as log:
        log.start(0)
        log.evaluation(3, iter(values))


def shown(workdir):
    """What TensorBoard reads of its file: plugin and contents, by tag."""
    (path,) = workdir.glob("events.out.tfevents*")
    events = event_file_loader.EventFileLoader(str(path)).Load()
    values = [v for event in events if event.step == 3 for v in event.summary.value]
    return {
        v.tag: (v.metadata.plugin_data.plugin_name, tensor_util.make_ndarray(v.tensor).tolist())
        for v in values
    }


def test_a_pace_that_is_not_known_yet_is_not_told(tmp_path, capsys):
    with Log(tmp_path, 4, "windows") as log:
        log.start(0)
        log.train(1, {"loss": 2.0}, float("nan"), 1.0)
        log.train(2, {"loss": 1.0}, 8.0, 1.0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(": step 1/4  ETA 00:00:03  loss 2")
    assert second.endswith(": step 2/4  8 windows/s  ETA 00:00:02  loss 1")


def test_sounds_and_figures_are_read_again_as_they_were(tmp_path):
    evaluate(tmp_path, ("set/loss", 0.5), ("voices/a b", SOUND), ("deep/er/map", FIGURE))
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row == {
        "step": 3,
        "kind": "eval",
        "set/loss": 0.5,
        "voices/a b": "samples/3/voices/a b.wav",
        "deep/er/map": "samples/3/deep/er/map.png",
    }
    samples, rate = soundfile.read(tmp_path / row["voices/a b"])
    assert rate == 24000
    np.testing.assert_allclose(samples, np.clip(SOUND.samples, -1, 1), atol=2**-15)
    image = cv2.imread(str(tmp_path / row["deep/er/map"]))
    np.testing.assert_array_equal(image[..., ::-1], FIGURE.image)


def test_tensorboard_has_them_beside_the_numbers(tmp_path):
    evaluate(tmp_path, ("set/loss", 0.5), ("voices/a", SOUND), ("maps/b", FIGURE))
    wav = (tmp_path / "samples/3/voices/a.wav").read_bytes()
    png = (tmp_path / "samples/3/maps/b.png").read_bytes()
    assert shown(tmp_path) == {
        "eval/set/loss": ("scalars", 0.5),
        "eval/voices/a": ("audio", [wav]),
        "eval/maps/b": ("images", [b"2", b"2", png]),
    }


def test_all_processes_evaluate_and_the_first_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "is_main", lambda: False)
    computed = []

    def values():
        for name, value in (("voices/a", SOUND), ("maps/b", FIGURE), ("set/loss", 0.5)):
            computed.append(name)
            yield name, value

    with Log(tmp_path, 4, "windows") as log:
        log.start(0)
        log.evaluation(3, values())
    assert len(computed) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["../a", "set/../../a", "/tmp/a", "set//a", "set/", "set/.", "set/a\0", "set/\n"]
)
def test_a_name_outside_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="names no file below samples"):
        evaluate(tmp_path, (name, SOUND))
    assert not list(tmp_path.rglob("*.wav"))


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"samples/3/set.wav/a.png cannot be written"):
        evaluate(tmp_path, ("set", SOUND), ("set.wav/a", FIGURE))


def test_a_sound_that_is_not_finite_is_told_and_not_written(tmp_path):
    broken = Sound(np.float32([[np.nan]]), 8000)
    evaluate(tmp_path, ("voices/a", SOUND))
    evaluate(tmp_path, ("voices/a", broken), ("set/loss", 1.0))
    event, row = (json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert event["message"] == (
        "voices/a has NaN or infinite samples: samples/3/voices/a.wav is not written."
    )
    assert row == {"step": 3, "kind": "eval", "set/loss": 1.0}
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("shape", [(3, 0), (0, 0)])
def test_a_sound_has_channels(shape):
    with pytest.raises(ValueError, match="no sound"):
        Sound(np.zeros(shape, np.float32), 8000)


@pytest.mark.parametrize("shape", [(2, 2, 4), (0, 2, 3)])
def test_a_figure_has_pixels_of_one_or_three_channels(shape):
    with pytest.raises(ValueError, match="is none"):
        Figure(np.zeros(shape, np.uint8))
