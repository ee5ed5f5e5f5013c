import numpy as np
import pytest
from PIL import Image

from sdejax.data.pictures import check_options, expect, header_size, to_array

RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6)


def test_grey_pixels_are_kept_and_colours_repeat_them():
    image = Image.fromarray(RAMP)
    np.testing.assert_array_equal(to_array(image, 1, None)[..., 0], RAMP)
    np.testing.assert_array_equal(to_array(image, 3, None), np.repeat(RAMP[..., None], 3, axis=2))
    assert np.all(to_array(image, 4, None)[..., 3] == 255)


def test_the_square_is_cut_from_the_middle():
    np.testing.assert_array_equal(to_array(Image.fromarray(RAMP), 1, 4)[..., 0], RAMP[:, 1:5])


def test_sizes_and_options_that_do_not_fit_are_named():
    assert header_size(Image.fromarray(RAMP)) == (4, 6)
    with pytest.raises(ValueError, match="size="):
        expect(RAMP[..., None], (4, 4, 1))
    with pytest.raises(ValueError, match="channels: got 2"):
        check_options(2, None)
    with pytest.raises(ValueError, match="size: got 0"):
        check_options(3, 0)
    with pytest.raises(ValueError, match="eight bits"):
        to_array(Image.fromarray(RAMP.astype(np.int32)), 1, None)
