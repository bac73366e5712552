import numpy as np
import pytest

from distill.vision import crops
from moshijax.data.order import Purpose, Stream


COUNT = 20_000

# Mean and deviation of top, left, height and width over 100,000 crops by
# tf.image.stateless_sample_distorted_bounding_box (TensorFlow 2.21.0, area 5% to 100%, aspect
# 3/4 to 4/3), by height and width of the image.
TENSORFLOW = {
    (375, 500): ([69.33, 127.22, 235.47, 244.73], [61.71, 91.39, 80.88, 93.31]),
    (28, 28): ([5.50, 5.27, 16.05, 16.49], [4.91, 4.87, 6.10, 6.21]),
    (500, 120): ([206.79, 15.58, 86.30, 87.90], [120.45, 14.40, 22.81, 19.05]),
    (40, 1000): ([0.0, 472.81, 39.93, 51.37], [0.0, 274.25, 0.25, 1.03]),
}
# Quantiles of the same at 10, 25, 50, 75 and 90%, for 375 x 500.
QUANTILES = [
    [5, 18, 52, 107, 164],
    [19, 51, 111, 189, 262],
    [124, 166, 235, 306, 348],
    [125, 167, 238, 311, 378],
]
# The same over 40,000 crops by torchvision.transforms.RandomResizedCrop (0.28.0).
PYTORCH = {
    (375, 500): ([52.29, 108.72, 270.29, 282.27], [50.79, 80.26, 70.44, 86.56]),
    (500, 120): ([194.27, 9.89, 110.14, 100.20], [108.14, 11.11, 28.40, 16.11]),
    (28, 28): ([4.50, 4.49, 19.00, 19.03], [4.24, 4.22, 5.38, 5.41]),
}


def boxes(crop, size, resolution=128, inception="tf", margin=crops.MARGIN, count=COUNT):
    sizes = np.tile([size], (count, 1))
    sampler = crops.Sampler(sizes, np.arange(count), count, resolution, inception, margin)
    return sampler.boxes(crop, Stream(0, 0, 0, Purpose.STUDENT_VIEW).generator)


def compare(found, mean, deviation, count):
    """Within four standard errors of both samples, and the rounding of the figures."""
    error = 4 * np.array(deviation) * np.sqrt(1 / COUNT + 1 / count) + 0.005
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - mean), error)
    np.testing.assert_allclose(found.std(axis=0), deviation, rtol=0.03, atol=0.02)


@pytest.mark.parametrize("size", TENSORFLOW)
def test_inception_crop_has_the_moments_of_tensorflow(size):
    compare(boxes("ic", size), *TENSORFLOW[size], count=100_000)


def test_inception_crop_has_the_quantiles_of_tensorflow():
    found = np.quantile(boxes("ic", (375, 500)), [0.1, 0.25, 0.5, 0.75, 0.9], axis=0).T
    np.testing.assert_allclose(found, QUANTILES, atol=6)


def test_inception_crop_keeps_to_area_and_aspect():
    height, width = 375, 500
    top, left, h, w = boxes("ic", (height, width)).T
    assert np.min(h * w) >= 0.05 * height * width
    # The width is rounded, so the aspect holds to half a pixel.
    assert np.all(w + 0.5 >= h * 3 / 4)
    assert np.all(w - 0.5 <= h * 4 / 3)
    assert np.all((top >= 0) & (left >= 0))
    # Offsets exclude the last place, as in TensorFlow.
    assert np.all((top + h < height) | (h == height))
    assert np.all((left + w < width) | (w == width))


def test_inception_crop_of_a_strip_is_the_whole_strip():
    found = boxes("ic", (10, 1000), count=50)  # no crop of 5% fits
    np.testing.assert_array_equal(found, np.tile([[0, 0, 10, 1000]], (50, 1)))


@pytest.mark.parametrize("size", PYTORCH)
def test_rrc_has_the_moments_of_pytorch(size):
    compare(boxes("ic", size, inception="rrc"), *PYTORCH[size], count=40_000)


def test_rrc_takes_8_percent_and_reaches_the_border():
    top, left, h, w = boxes("ic", (375, 500), inception="rrc").T
    assert 0.078 < np.min(h * w) / (375 * 500) < 0.085
    assert np.any((top + h == 375) & (h < 375))
    assert np.any((left + w == 500) & (w < 500))


def test_rrc_falls_back_to_the_centre():
    found = boxes("ic", (30, 3000), inception="rrc", count=20)
    np.testing.assert_array_equal(found, np.tile([[0, 1480, 30, 40]], (20, 1)))


def test_mild_crop_is_a_window_of_the_image_resized_to_a_square():
    found = boxes("rc", (320, 480))
    assert np.all(found[:, 2:] == [256, 384])  # 128 of 160
    offsets = found[:, :2] * 160 / [320, 480]
    np.testing.assert_allclose(offsets, np.rint(offsets), atol=1e-4)
    for axis in (0, 1):
        values, counts = np.unique(np.rint(offsets[:, axis]), return_counts=True)
        np.testing.assert_array_equal(values, np.arange(33))  # both ends included
        assert counts.min() > 0.8 * COUNT / 33


def test_central_crop_resizes_the_smaller_side_then_takes_the_middle():
    box = boxes("cc", (375, 500), resolution=224, margin=256 / 224, count=1)[0]
    # 256 x 341: rows 16 to 240, columns 58 to 282 of the resized image.
    expected = [16 * 375 / 256, 58 * 500 / 341, 224 * 375 / 256, 224 * 500 / 341]
    np.testing.assert_allclose(box, expected, rtol=1e-6)


def test_whole_image():
    np.testing.assert_array_equal(boxes("rs", (30, 40), count=2), [[0, 0, 30, 40]] * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inception": "torch"}, "Unknown inception crop 'torch'; choose tf or rrc."),
        ({"crop": "zoom"}, "Unknown crop 'zoom'; choose rs, cc, rc or ic."),
    ],
)
def test_unknown_crops_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        boxes(**{"crop": "ic", "size": (8, 8), "count": 2, **arguments})


def test_rows_outside_of_the_batch_are_an_error():
    with pytest.raises(ValueError, match="Rows 3 to 4 are not of a batch of 4"):
        crops.Sampler(np.ones((2, 2), int), np.array([3, 4]), 4, 8)
