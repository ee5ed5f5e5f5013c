"""The benchmark problems are what their definitions say, to the digit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import processes, truth
from sdejax.truth import problems

ALL = ("g2", "d16", "d64", "d1024", "l32", "s2", "i8")


def test_g2_is_a_circle_of_eight(x64):
    dist = problems.g2()
    np.testing.assert_allclose(np.exp(dist.log_weights), np.arange(1, 9) / 36, rtol=1e-12)
    np.testing.assert_allclose(np.hypot(*np.asarray(dist.means).T), 0.66, rtol=1e-12)
    step = np.exp(0.25j * np.pi)
    np.testing.assert_allclose(np.asarray(dist.means) @ [1, 1j], 0.66 * step ** np.arange(8))
    # Second moments: half of the radius squared, and the width squared; the mean by its sum.
    middle = 0.66 * np.abs(np.arange(1, 9) @ step ** np.arange(8)) / 36
    variance = 0.66**2 / 2 + 0.08**2 - middle**2 / 2
    np.testing.assert_allclose(truth.sigma_data(dist), np.sqrt(variance), rtol=1e-12)


@pytest.mark.parametrize(("d", "first"), [(16, 1.764052345967664), (64, 1.764052345967664)])
def test_clouds_continue_one_stream(d, first, x64):
    dist = problems.cloud(d)
    np.testing.assert_allclose(dist.means[0, 0], 0.45 * first, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(dist.floors)[[0, -1]], [0.1, 0.3], rtol=1e-12)
    state = np.random.RandomState(0)
    state.randn(16 * d)
    gammas = state.standard_gamma(3.0, 16)
    np.testing.assert_allclose(np.exp(dist.log_weights), gammas / gammas.sum(), rtol=1e-12)


def test_l32_is_skewed_and_of_low_rank(x64):
    dist = problems.l32()
    values = np.linalg.eigvalsh(truth.covariance(jax.tree.map(lambda leaf: leaf[:1], dist)))
    spread = np.geomspace(0.95, 0.12, 4)[::-1] ** 2 + 0.03**2
    # One component keeps its weight of 32/63, and its mean is 0.
    np.testing.assert_allclose(values[-4:] * 63 / 32, spread, rtol=1e-10)
    np.testing.assert_allclose(values[:-4] * 63 / 32, 0.03**2, rtol=1e-8)
    line = np.asarray(dist.means[-1]) / np.linalg.norm(dist.means[-1])
    heights, weights = np.asarray(dist.means @ line), np.exp(dist.log_weights)
    away = heights - weights @ heights
    assert weights @ away**3 > 1.5 * (weights @ away**2) ** 1.5


def test_s2_is_thin_and_its_arms_are_unequal(x64):
    dist = problems.s2()
    np.testing.assert_allclose(np.exp(dist.log_weights[:30]).sum(), 2 / 3, rtol=1e-12)
    np.testing.assert_allclose(dist.stds, 0.08, rtol=1e-12)
    np.testing.assert_allclose(dist.floors, 0.02, rtol=1e-12)
    # Each component lies along the chord between its neighbours.
    means = np.asarray(dist.means).reshape(2, 30, 2)
    chord = means[:, 2:] - means[:, :-2]
    chord /= np.linalg.norm(chord, axis=-1, keepdims=True)
    along = np.asarray(dist.bases)[..., 0].reshape(2, 30, 2)[:, 1:-1]
    assert np.abs((chord * along).sum(axis=-1)).min() > 0.9
    np.testing.assert_allclose(means[1], -means[0], atol=1e-12)


def test_i8_are_smooth_images(x64):
    dist = problems.i8()
    assert dist.means.shape == (5, 8, 8, 3)
    assert dist.bases.shape == (5, 8, 8, 3, 6)
    means = np.asarray(dist.means)
    np.testing.assert_allclose(means.std(), 0.45, rtol=1e-12)
    waves = np.cos(np.pi * np.arange(4, 8)[:, None] * (np.arange(8) + 0.5)[None] / 8)
    np.testing.assert_allclose(np.einsum("kyxc,iy->kixc", means, waves), 0.0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_problems_are_ready_to_use(name):
    dist, sde = getattr(problems, name)(), processes.edm()
    x = jax.jit(lambda key: truth.sample_at(key, dist, sde, 0.1))(jax.random.key(0))
    assert x.shape == dist.means.shape[1:]
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(np.exp(dist.log_weights).sum(), 1.0, rtol=1e-5)
    assert 0.25 < truth.sigma_data(dist) < 0.55
    found = jax.jit(lambda x: truth.estimate(dist, sde, x, 0.1))(x)
    np.testing.assert_allclose(found.x0 + 0.1 * found.eps, x, atol=1e-5)
