"""The noise of a data set of images, with a density of their own scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import dequantiser
from sdejax.data.scaling import Scaling, integers
from sdejax.likelihood.dequantisation import discrete_bound
from sdejax.likelihood.fit_dequantiser import load_noise, save_noise

KEY = jax.random.key(0)
SCALING, SHAPE = integers(5), (4, 4, 1)
IMAGES = np.random.default_rng(0).integers(0, 5, (40, *SHAPE)).astype(np.uint8)
SIZES = {"layers": 2, "features": 4, "depth": 1}


def density(key, y):
    """Steep, so that uniform noise is a poor choice."""
    return -8.0 * jnp.sum(y)


@pytest.fixture(scope="module")
def fitted():
    return dequantiser.fit(
        KEY, density, SCALING, IMAGES[:32], IMAGES[32:], **SIZES,
        iterations=60, batch=8, learning_rate=2e-2, checks=2,
    )  # fmt: skip


def bits(noise, count=64):
    q = dequantiser.quantisation_of(SCALING)
    found = jax.jit(
        lambda k: discrete_bound(
            KEY, density, q, k, dequantiser=noise.dequantiser, params=noise.params, samples=count
        )
    )(jnp.asarray(IMAGES[33].astype(np.int32)))
    return -np.mean(np.asarray(found.log_weights)) / 16 / np.log(2)


def test_noise_is_fitted_to_images_through_a_file(fitted, tmp_path):
    """s = 8/scale = 4 nats a bin: uniform noise loses s/2 + log((1 - e^-s)/s) = 0.60 an entry."""
    noise, history = fitted
    start = dequantiser.uniform_noise(KEY, SCALING, SHAPE, **SIZES)
    gap = (2 + np.log((1 - np.exp(-4)) / 4)) / np.log(2)
    assert history.held_out[-1] < history.held_out[0] - 0.7 * gap
    assert bits(noise) < bits(start) - 0.7 * gap
    dequantiser.save(tmp_path / "noise.npz", noise)
    again = dequantiser.load(tmp_path / "noise.npz", SCALING, SHAPE)
    assert again.about == noise.about
    assert bits(again) == bits(noise)


def test_noise_for_other_data_is_refused(fitted, tmp_path):
    path = tmp_path / "noise.npz"
    dequantiser.save(path, fitted[0])
    with pytest.raises(ValueError, match=r"event_shape \[4, 4, 1\]; expected \[4, 4, 3\]"):
        dequantiser.load(path, SCALING, (4, 4, 3))
    with pytest.raises(ValueError, match="levels 5; expected 6"):
        dequantiser.load(path, integers(6), SHAPE)
    with pytest.raises(ValueError, match=r"offset \[2.0\]; expected \[0.0\]"):
        dequantiser.load(path, Scaling((0.0,), (2.0,), 5), SHAPE)
    params, about = load_noise(path)
    save_noise(path, params[:1], about)
    with pytest.raises(ValueError, match="parameters of another network"):
        dequantiser.load(path, SCALING, SHAPE)
    save_noise(path, params, about | {"depth": None})
    with pytest.raises(ValueError, match="expected the sizes of a network"):
        dequantiser.load(path, SCALING, SHAPE)


def test_real_values_and_empty_networks_are_refused():
    for function in (
        lambda scaling: dequantiser.quantisation_of(scaling),
        lambda scaling: dequantiser.uniform_noise(KEY, scaling, SHAPE),
        lambda scaling: dequantiser.fit(KEY, density, scaling, IMAGES, IMAGES),
    ):
        with pytest.raises(ValueError, match=r"levels: got None; .* real-valued data"):
            function(Scaling())
    with pytest.raises(ValueError, match="layers=0"):
        dequantiser.uniform_noise(KEY, SCALING, SHAPE, layers=0)
