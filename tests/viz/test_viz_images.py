"""Which pixel stands where: enlargement, gaps, order, rounding."""

import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.viz import image_grid, to_pixels, trajectory_strip


def ramp(n: int, h: int, w: int, c: int) -> np.ndarray:
    """Every pixel of every image has its own grey level."""
    return np.arange(n * h * w * c, dtype=np.uint8).reshape(n, h, w, c)


@pytest.mark.parametrize("c", [1, 3, 4])
@pytest.mark.parametrize(("scale", "gap"), [(1, 0), (1, 3), (3, 2)])
def test_every_pixel_is_a_square_at_its_place(c, scale, gap):
    x = ramp(5, 2, 3, c)
    picture = image_grid(x, columns=3, scale=scale, gap=gap)
    assert picture.shape == (2 * 2 * scale + gap, 3 * 3 * scale + 2 * gap, c)
    assert picture.dtype == np.uint8
    left = np.ones(picture.shape[:2], bool)
    for k, image in enumerate(x):
        top, side = (k // 3) * (2 * scale + gap), (k % 3) * (3 * scale + gap)
        tile = picture[top : top + 2 * scale, side : side + 3 * scale]
        for i in range(scale):
            for j in range(scale):
                np.testing.assert_array_equal(tile[i::scale, j::scale], image)
        left[top : top + 2 * scale, side : side + 3 * scale] = False
    assert left.any()
    assert np.all(picture[left] == 255)  # gaps and the empty sixth cell


def test_defaults_make_small_images_visible_and_leave_large_ones():
    small = image_grid(np.zeros((4, 8, 8, 1)))
    assert small.shape == (2 * 64 + 2, 2 * 64 + 2, 1)
    assert image_grid(np.zeros((1, 64, 64, 3))).shape == (64, 64, 3)
    assert image_grid(np.zeros((2, 28, 28, 1)), columns=9).shape == (84, 2 * 84 + 2, 1)


def test_floats_round_to_the_nearest_level():
    levels = np.arange(256, dtype=np.float32) / 255
    np.testing.assert_array_equal(to_pixels(levels.reshape(1, 16, 16, 1)).ravel(), np.arange(256))
    near = jnp.array([-5e-4, 0.49 / 255, 0.51 / 255, 1.0005]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(to_pixels(near).ravel(), [0, 0, 1, 255])


def test_bad_images_are_named():
    bad = np.zeros((7, 4, 4, 1), np.float32)
    bad[2, 0, 0], bad[5] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 7 hold NaN or infinity"):
        image_grid(bad)
    with pytest.raises(ValueError, match=r"got \[-1, 1\].*\(x \+ 1\) / 2"):
        image_grid(np.linspace(-1, 1, 32).reshape(2, 4, 4, 1))
    with pytest.raises(ValueError, match=r"got \[0, 16\]"):
        image_grid(16 * np.eye(4).reshape(1, 4, 4, 1))
    for shape in ((4, 4, 1), (2, 4, 4, 2), (0, 4, 4, 1)):
        with pytest.raises(ValueError, match=r"\[n, h, w, c\]"):
            image_grid(np.zeros(shape))
    for wrong in ({"columns": 0}, {"scale": 0}, {"gap": -1}):
        with pytest.raises(ValueError, match="at least"):
            image_grid(np.zeros((1, 4, 4, 1)), **wrong)


def test_strip_has_a_row_per_example_and_a_column_per_time():
    frames = ramp(3 * 2, 2, 2, 1).reshape(3, 2, 2, 2, 1)  # 3 times, 2 examples
    figure = trajectory_strip(frames, times=[1.0, 0.5, 0.0], scale=1)
    (axes,) = figure.axes
    picture = np.asarray(axes.images[0].get_array())
    assert picture.shape == (2 * 2 + 2, 3 * 2 + 2 * 2)
    for time in range(3):
        for example in range(2):
            tile = picture[4 * example : 4 * example + 2, 4 * time : 4 * time + 2]
            np.testing.assert_array_equal(tile, frames[time, example, :, :, 0])
    # imshow puts pixel i at i, so a column of pixels 4k, 4k + 1 has its centre at 4k + 1/2.
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 4.5, 8.5])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["t = 1", "t = 0.5", "t = 0"]


def test_strip_misuse():
    with pytest.raises(ValueError, match=r"\[times, n, h, w, c\]"):
        trajectory_strip(np.zeros((3, 4, 4, 1)))
    with pytest.raises(ValueError, match="3 columns"):
        trajectory_strip(np.zeros((3, 1, 4, 4, 1)), times=[0.0])
