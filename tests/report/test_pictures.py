import base64

import cv2
import numpy as np

from moshijax.report.pictures import Picture, image_grid, pictures, png


def test_the_grid_shows_small_and_large_images_at_one_size():
    small = np.full((2, 4, 4, 1), -1.0, np.float32)
    large = np.full((3, 8, 8, 3), 200, np.uint8)
    grid = image_grid([small, large])
    assert grid.shape == (18, 28, 3)
    assert grid[:8, :8].max() == 0
    assert grid[:8, 20:].min() == 255  # No third small image.
    assert (grid[10:, 20:] == 200).all()


def test_png_keeps_the_order_of_colours():
    image = np.zeros((2, 3, 3), np.uint8) + np.array([250, 100, 5], np.uint8)
    data = base64.b64decode(png(image).split(",")[1])
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], image)


def test_rows_of_a_picture_have_names_if_they_are_given():
    image = png(np.zeros((2, 2, 1), np.uint8))
    text = pictures([Picture("A", "b", image, ("student", "teacher"))])
    assert "<span>student</span><span>teacher</span>" in text
    assert "span" not in pictures([Picture("A", "b", image)])
