import concurrent.futures
import io

import grain
import numpy as np
import pytest
import simplejpeg

from distill.vision import data, images, jpeg, sources, views


MODELS = {"small": ("student", 16), "large": ("teacher", 24), "twin": ("teacher", 16)}
OPTIONS = {"design": "same/ic", "batch_size": 12, "seed": 5, "mixup": 1.0, "on_corrupt": "stop"}


class Files(sources.Source):
    """Encoded images in memory; row k has label k."""

    name, channels, fingerprint = "files, split train", 3, "files"
    class_names = tuple(map(str, range(100)))

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return sources.Row(self.files[index], index)


def photo(seed):
    """A smooth picture of some size, whose pieces can be told apart."""
    random = np.random.default_rng(seed)
    height, width = random.integers(40, 90, 2)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y * a + x * b) for a, b in random.uniform(-0.2, 0.2, (3, 2))]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def files():
    return [simplejpeg.encode_jpeg(photo(k), quality=95) for k in range(20)]


@pytest.fixture
def source(files):
    return Files(list(files))


def same(a, b):
    assert a["images"].keys() == b["images"].keys()
    for key in a["images"]:
        np.testing.assert_array_equal(a["images"][key], b["images"][key])
    for key in ("label", "index", "mix", "mask"):
        if key in a:
            np.testing.assert_array_equal(a[key], b[key])


def train(source, models=MODELS, **changes):
    return data.TrainBatches(source, models, **{**OPTIONS, **changes})


def test_a_batch_has_the_promised_arrays(source):
    batch = train(source).batch(3)
    assert {k: v.shape for k, v in batch["images"].items()} == {
        "shared_16": (12, 16, 16, 3),
        "shared_24": (12, 24, 24, 3),
    }
    assert all(array.dtype == np.uint8 for array in batch["images"].values())
    assert batch["label"].dtype == batch["index"].dtype == np.int32
    assert batch["mix"].dtype == np.float32
    assert np.shape(batch["mix"]) == ()
    np.testing.assert_array_equal(batch["label"], batch["index"])


@pytest.mark.parametrize("design", views.DESIGNS)
def test_models_share_an_array_only_if_they_see_the_same(source, design):
    batches = train(source, design=design)
    keys, shown = batches.keys, batches.batch(0)["images"]
    assert set(shown) == set(keys.values())
    assert (keys["small"] == keys["twin"]) == views.DESIGNS[design].shared
    if not views.DESIGNS[design].shared:
        assert np.any(shown[keys["small"]] != shown[keys["twin"]])


@pytest.mark.parametrize("design", ["same/ic", "same/rc", "fix/cc", "ind/rc"])
def test_rows_are_the_same_whoever_renders_them(source, design):
    batches = train(source, design=design)
    whole, rows = batches.batch(4), np.array([7, 0, 11])
    part = train(source, design=design).batch(4, rows=rows)
    for key, array in whole["images"].items():
        np.testing.assert_array_equal(part["images"][key], array[rows])
    np.testing.assert_array_equal(part["label"], whole["label"][rows])
    assert part["mix"] == whole["mix"]


def test_batches_are_a_function_of_step_and_order(source):
    batches = train(source)
    first = batches.batch(2)
    batches.batch(9)
    same(first, batches.batch(2))
    same(first, train(source, threads=3).batch(2))
    other = batches.batch(2, order=1)
    assert np.any(first["index"] != other["index"])
    assert np.any(batches.batch(3)["index"] != first["index"])


def test_epochs_are_without_replacement_and_batches_straddle_them(source):
    batches = train(source, models={"s": ("student", 8)})
    index = np.concatenate([batches.batch(step)["index"] for step in range(5)])
    np.testing.assert_array_equal(np.sort(index.reshape(3, 20)), np.tile(np.arange(20), (3, 1)))


@pytest.mark.parametrize("design", ["same/ic", "ind/rc"])
def test_a_stored_plan_is_replayed_to_the_byte(source, design):
    batches = train(source, design=design)
    file = io.BytesIO()
    np.savez(file, **views.to_arrays(batches.plan(6, order=2)))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        replayed = train(source, design=design).render(views.from_arrays(arrays))
    same(replayed, batches.batch(6, order=2))


def test_resolutions_show_the_same_piece(source):
    batches = train(source, models={"s": ("student", 16), "t": ("teacher", 32)})
    shown = batches.batch(1)["images"]
    small = shown["shared_16"].astype(float)
    large = shown["shared_32"].astype(float).reshape(12, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    spread = np.abs(small - np.roll(small, 1, axis=0)).mean()
    assert np.abs(small - large).mean() < 0.05 * spread


def test_a_teacher_sees_what_the_student_sees_flipped_or_not(source):
    batches = train(source, models={"s": ("student", 16)})
    plan = batches.plan(0)
    assert 0 < plan.student.flip.sum() < 12
    still = plan.student._replace(flip=np.zeros(12, bool))
    plain = batches.render(plan._replace(student=still))["images"]["shared_16"]
    shown = batches.render(plan)["images"]["shared_16"]
    for k, flip in enumerate(plan.student.flip):
        np.testing.assert_array_equal(shown[k], plain[k, :, ::-1] if flip else plain[k])


def test_once_found_intact_the_upper_rows_of_a_file_are_enough(source, monkeypatch):
    cut = []
    upper_rows = jpeg.upper_rows
    monkeypatch.setattr(jpeg, "upper_rows", lambda *a: cut.append(a) or upper_rows(*a))
    batches = train(source)
    first = batches.batch(0)
    assert not cut
    same(first, batches.batch(0))
    assert len(cut) == 12
    assert sum(upper_rows(data, bottom) != data for data, bottom in cut) > 4
    windows = train(source, design="same/rc")
    same(windows.batch(0), windows.batch(0))
    assert len(cut) == 12  # the pixels around a window count


def test_batches_come_alike_through_threads_of_grain(source):
    batches = train(source)
    read = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
    ahead = grain.MapDataset.range(6).map(batches.batch).to_iter_dataset(read)
    for step, batch in enumerate(ahead):
        same(batch, train(source).batch(step))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for batch in pool.map(batches.batch, [1] * 8):
            same(batch, train(source).batch(1))


def test_grey_images_can_be_shown_to_colour_models():
    source = sources.load(sources.SAMPLE, "train[:50]")
    one = train(source).batch(0)["images"]["shared_16"]
    three = train(source, channels=3).batch(0)["images"]["shared_16"]
    assert one.shape == (12, 16, 16, 1)
    np.testing.assert_array_equal(three, np.repeat(one, 3, axis=3))


def damage(source, truncated=(), headless=()):
    for k in truncated:
        source.files[k] = source.files[k][: len(source.files[k]) // 2]
    for k in headless:
        source.files[k] = b"\xff\xd8 nothing"
    return source


def test_corrupt_rows_stop_a_run_by_name(source):
    batches = train(damage(source, truncated=[4]))
    message = r"Row 4 of files, split train is corrupt \(.*\); repair it or set on_corrupt to skip"
    with pytest.raises(images.CorruptImageError, match=message):
        [batches.batch(step) for step in range(2)]


def test_corrupt_rows_are_replaced_by_the_next_that_is_intact(source, files):
    damaged = damage(source, truncated=[4, 5, 19], headless=[9])
    batches = train(damaged, on_corrupt="skip")
    replacement = {4: 6, 5: 6, 19: 0, 9: 10}
    for step in range(5):
        planned = batches.plan(step)
        batch = batches.batch(step)
        intact = train(Files(list(files))).plan(step).index
        expected = [replacement.get(k, k) for k in intact.tolist()]
        np.testing.assert_array_equal(batch["index"], expected)
        np.testing.assert_array_equal(batch["label"], expected)
        same(batch, train(damaged, on_corrupt="skip").render(planned))
    assert batches.corrupt_count == 4


def test_a_replacement_is_shown_by_the_same_share(source):
    sizes = np.array([images.size_of(file) for file in source.files])
    row = int(np.flatnonzero((sizes[1:] > sizes[:-1]).all(axis=1))[0])  # the next is larger
    damaged = damage(source, truncated=[row])
    batches = train(damaged, models={"s": ("student", 16)}, design="fix/rs", on_corrupt="skip")
    plan = batches.plan(0)
    at = np.full(1, row)
    size = sizes[row].astype(np.float32)
    box = np.concatenate([np.zeros(2, np.float32), size])[None]
    view = views.View(box, np.zeros(1, bool))
    shown = batches.render(plan._replace(index=at, student=view, teacher=view))
    whole = images.decode(damaged.files[row + 1], 3)
    box = np.float32([0, 0, *whole.shape[:2]])
    np.testing.assert_array_equal(shown["images"]["shared_16"][0], images.render(whole, box, 16))


def test_nothing_but_corrupt_rows_is_an_error(files):
    for damaged in (Files([b"none"] * 3), Files([file[:400] for file in files[:3]])):
        with pytest.raises(ValueError, match="Not one image of files, split train"):
            train(damaged, on_corrupt="skip").batch(0)


def evaluation(source, models=MODELS, **changes):
    options = {"crop": "cc", "batch_size": 8, "on_corrupt": "stop", **changes}
    return data.EvalBatches(source, models, **options)


def test_evaluation_shows_every_row_once_and_masks_the_rest(source):
    batches = evaluation(source)
    assert batches.num_batches == 3
    assert batches.keys == {"small": "eval_16", "large": "eval_24", "twin": "eval_16"}
    found = [batches.batch(k) for k in range(3)]
    index = np.concatenate([batch["index"] for batch in found])
    mask = np.concatenate([batch["mask"] for batch in found])
    np.testing.assert_array_equal(index, [*range(20), -1, -1, -1, -1])
    np.testing.assert_array_equal(mask, [1] * 20 + [0] * 4)
    assert mask.dtype == np.float32
    assert found[2]["images"]["eval_24"].shape == (8, 24, 24, 3)
    assert not found[2]["images"]["eval_24"][4:].any()
    part = batches.batch(2, rows=np.array([3, 5]))
    np.testing.assert_array_equal(part["images"]["eval_16"], found[2]["images"]["eval_16"][[3, 5]])
    np.testing.assert_array_equal(part["mask"], [1, 0])


def test_the_central_view_is_the_middle_of_the_resized_image(source, files):
    batch = evaluation(source, margin=1.5).batch(0)
    pixels = images.decode(files[2], 3)
    height, width = pixels.shape[:2]
    resized = [round(side * 24 / min(height, width)) for side in (height, width)]
    fine = np.float32([0, 0, height, width])
    y, x = [(side - 16) // 2 for side in resized]
    # Rendered on a square canvas and cut, the whole image gives the same middle.
    scale = np.array([height, width]) / resized
    box = np.float32([y * scale[0], x * scale[1], 16 * scale[0], 16 * scale[1]])
    assert np.all(box[:2] + box[2:] <= fine[2:])
    expected = images.render(pixels, box, 16, "area")
    np.testing.assert_array_equal(batch["images"]["eval_16"][2], expected)


def test_whole_images_and_repeated_crops_can_be_evaluated(source, files):
    whole = evaluation(source, crop="rs").batch(0)["images"]["eval_16"]
    pixels = images.decode(files[1], 3)
    box = np.float32([0, 0, *pixels.shape[:2]])
    np.testing.assert_array_equal(whole[1], images.render(pixels, box, 16))
    batches = evaluation(source, crop="ic")
    same(batches.batch(1, draw=3), batches.batch(1, draw=3))
    first, second = (batches.batch(1, draw=k)["images"]["eval_16"] for k in (0, 1))
    assert np.any(first != second)


def test_evaluation_masks_corrupt_rows_or_stops(source):
    damaged = damage(source, truncated=[4], headless=[9])
    batches = evaluation(damaged, on_corrupt="skip")
    masks = np.concatenate([batches.batch(k)["mask"] for k in range(3)])
    np.testing.assert_array_equal(np.flatnonzero(masks == 0), [4, 9, 20, 21, 22, 23])
    assert batches.corrupt_count == 2
    with pytest.raises(images.CorruptImageError, match="Row 4 of files, split train is corrupt"):
        evaluation(damaged).batch(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_corrupt": "ignore"}, "on_corrupt is 'ignore'; choose skip or stop"),
        ({"models": {"a": ("pupil", 8)}}, "role of a model is student or teacher, not 'pupil'"),
        ({"design": "same"}, "Unknown view design 'same'"),
    ],
)
def test_bad_options_are_named(source, changes, message):
    with pytest.raises(ValueError, match=message):
        train(source, **changes)
