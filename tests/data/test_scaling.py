import json

import numpy as np
import pytest

from sdejax.data.scaling import (
    Scaling,
    apply,
    bounds,
    integers,
    invert,
    standardise,
    to_uint8,
    uncentred,
)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_integers_reach_both_ends_exactly_and_come_back(levels):
    stored = np.arange(levels, dtype=np.uint8)
    y = apply(integers(levels), stored)
    assert y.dtype == np.float32
    assert y[0] == -1
    assert y[-1] == 1
    np.testing.assert_array_equal(np.rint(invert(integers(levels), y)), stored)


def test_one_stored_level_is_one_over_scale_wide():
    y = apply(integers(17), np.arange(17, dtype=np.uint8))
    np.testing.assert_allclose(np.diff(y), 1 / integers(17).scale[0], rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_uncentred_integers_lie_between_0_and_1(levels):
    stored, scaling = np.arange(levels, dtype=np.uint8), uncentred(integers(levels))
    y = apply(scaling, stored)
    np.testing.assert_allclose(y, stored / (levels - 1), rtol=1e-6)
    np.testing.assert_array_equal(np.rint(invert(scaling, y)), stored)
    np.testing.assert_array_equal(to_uint8(scaling, y), to_uint8(integers(levels), 2 * y - 1))
    assert (bounds(integers(levels)), bounds(scaling)) == ((-1.0, 1.0), (0.0, 1.0))


@pytest.mark.parametrize("of", [uncentred, bounds])
def test_real_values_have_no_range(of):
    with pytest.raises(ValueError, match="real-valued data"):
        of(Scaling())


def test_the_range_is_that_of_all_channels():
    assert bounds(Scaling((1.0, 0.0), (1.0, -3.0), 4)) == (-1.0, 2.0)


def test_apply_does_not_touch_its_argument():
    stored = np.ones((2, 3), np.float32)
    apply(Scaling((1.0,), (2.0,)), stored)
    np.testing.assert_array_equal(stored, 1)


def test_pictures_use_the_nearest_stored_level_and_clip():
    y = np.array([-7.0, -1.0, -0.999, 0.0, 1.0, 7.0], np.float32)
    np.testing.assert_array_equal(to_uint8(integers(256), y), [0, 0, 0, 128, 255, 255])
    # 17 levels: 0 is level 8, the middle; 0.06 is nearest to level 8 too (one level is 0.125)
    np.testing.assert_array_equal(to_uint8(integers(17), np.array([0.0, 0.06])), [128, 128])


def test_pictures_of_real_values_are_refused():
    with pytest.raises(ValueError, match=r"scaling\.levels: got None"):
        to_uint8(Scaling(), np.zeros(3))


def test_survives_json():
    scaling = Scaling((1.5, 2.5), (0.1, 0.2), None)
    assert Scaling.from_json(json.loads(json.dumps(scaling.to_json()))) == scaling


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_standardise_vectors_per_feature(chunk):
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(100, 3)) * [1.0, 10.0, 0.1] + [0.0, 1e6, -3.0]
    y = apply(standardise(x, chunk), x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-4)


def test_standardise_images_with_one_pair():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 4, 4, 3)).astype(np.float32)
    scaling = standardise(x, 16)
    np.testing.assert_allclose(scaling.offset, [x.mean(dtype=np.float64)], rtol=1e-6)
    np.testing.assert_allclose(scaling.scale, [x.std(dtype=np.float64)], rtol=1e-6)


def test_large_float64_offsets_do_not_lose_the_signal():
    x = 1e9 + np.array([[0.0], [1.0], [2.0]])
    y = apply(standardise(x), x)
    np.testing.assert_allclose(y[:, 0], [-np.sqrt(1.5), 0, np.sqrt(1.5)], atol=1e-6)


def test_constant_feature_is_only_centred_and_nan_refused():
    x = np.array([[2.0, 1.0], [2.0, 3.0]])
    assert standardise(x) == Scaling((2.0, 2.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="NaN or infinite"):
        standardise(np.array([[1.0], [np.nan]]))


def test_a_constant_feature_is_only_centred_in_float64_too():
    scaling = standardise(np.full((1000, 2), 0.1))
    np.testing.assert_array_equal(scaling.scale, 1.0)
