import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from stats import assert_mean

from sdejax import processes, truth
from sdejax.sde import coefficients

WEIGHTS = np.asarray([0.6, 1.4])  # not normalised: 0.3 and 0.7
MEANS = np.asarray([[1.5, -0.5], [-0.5, 0.8]])
COVS = np.asarray([[[0.3, 0.2], [0.2, 0.5]], [[0.6, -0.3], [-0.3, 0.25]]])
SDES = {
    "sub_vp": processes.sub_vp(),
    "ve": processes.ve(0.1, 5.0),
    "rectified_flow": processes.rectified_flow(),
}
TIMES = {"sub_vp": 0.25, "ve": 0.55, "rectified_flow": 0.4}


@pytest.fixture
def dist(x64):
    return truth.mixture(*map(jnp.asarray, (WEIGHTS, MEANS, COVS)))


def oracle(name):
    """The noised mixture as a list of SciPy distributions."""
    c = coefficients(SDES[name], TIMES[name])
    return [
        scipy.stats.multivariate_normal(c.alpha * m, c.alpha**2 * C + c.sigma**2 * np.eye(2))
        for m, C in zip(MEANS, COVS, strict=True)
    ]


@pytest.mark.parametrize("name", SDES)
def test_log_prob_is_the_mixtures(name, dist):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)) * 2)
    log_p = jax.jit(jax.vmap(lambda x: truth.log_prob(dist, SDES[name], x, TIMES[name])))(x)
    first, second = oracle(name)
    expected = np.log(0.3 * first.pdf(x) + 0.7 * second.pdf(x))
    np.testing.assert_allclose(log_p, expected, rtol=1e-10)


def test_the_density_integrates_to_one(dist):
    axis = np.linspace(-9, 9, 241)
    x = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    log_p = jax.jit(jax.vmap(lambda x: truth.log_prob(dist, processes.vp(), x, 0.2)))(x)
    density = np.exp(log_p)
    np.testing.assert_allclose(density.sum() * (axis[1] - axis[0]) ** 2, 1.0, rtol=1e-8)


@pytest.mark.parametrize("name", SDES)
def test_the_score_is_the_gradient_and_the_velocity_carries_the_density(name, dist):
    """The continuity equation d log p/dt + div v + v . score = 0, by automatic derivatives."""
    sde = SDES[name]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(12, 2)) * 1.5)
    times = jnp.asarray([0.05, TIMES[name], 0.9])

    def terms(x, t):
        by_x = jax.grad(lambda x: truth.log_prob(dist, sde, x, t))(x)
        by_t = jax.grad(lambda t: truth.log_prob(dist, sde, x, t))(t)
        v = truth.velocity(dist, sde, x, t)
        divergence = jnp.trace(jax.jacfwd(lambda x: truth.velocity(dist, sde, x, t))(x))
        estimate = truth.estimate(dist, sde, x, t)
        c = coefficients(sde, t)
        rebuilt = c.alpha * estimate.x0 + c.sigma * estimate.eps
        return by_x, truth.score(dist, sde, x, t), (by_t, divergence, v @ by_x), rebuilt

    over_x = jax.vmap(terms, in_axes=(0, None))
    by_x, score, parts, rebuilt = jax.jit(jax.vmap(over_x, in_axes=(None, 0)))(x, times)
    np.testing.assert_allclose(score, by_x, rtol=1e-9, atol=1e-9)
    size = sum(map(np.abs, parts))
    assert np.all(np.abs(sum(parts)) <= 1e-10 * (1 + size))
    assert np.abs(parts[0]).max() > 0.1
    np.testing.assert_allclose(rebuilt, jnp.broadcast_to(x, rebuilt.shape), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", SDES)
def test_the_posterior_mean_by_quadrature(name, x64):
    """E[x0 | x_t] as a ratio of integrals over x0, in one dimension."""
    dist = truth.mixture(
        jnp.asarray([0.3, 0.7]), jnp.asarray([[1.5], [-0.5]]), jnp.asarray([[[0.1]], [[0.4]]])
    )
    sde, t = SDES[name], TIMES[name]
    c = coefficients(sde, t)
    x0 = np.linspace(-8, 8, 20_001)
    prior = 0.3 * scipy.stats.norm(1.5, 0.1**0.5).pdf(x0)
    prior += 0.7 * scipy.stats.norm(-0.5, 0.4**0.5).pdf(x0)
    posterior = jax.jit(lambda x: truth.estimate(dist, sde, x, t))
    for x in (-1.0, 0.4, 2.0):
        joint = prior * scipy.stats.norm(np.asarray(c.alpha * x0), float(c.sigma)).pdf(x)
        mean = (x0 * joint).sum() / joint.sum()
        estimate = posterior(jnp.asarray([x]))
        np.testing.assert_allclose(estimate.x0[0], mean, rtol=1e-9)
        np.testing.assert_allclose(estimate.eps[0], (x - c.alpha * mean) / c.sigma, rtol=1e-8)


def test_the_ends_are_finite(dist):
    sde = SDES["rectified_flow"]
    x = jnp.asarray([0.3, -0.4])
    at_noise = truth.estimate(dist, sde, x, 1.0)
    np.testing.assert_allclose(at_noise.x0, 0.3 * MEANS[0] + 0.7 * MEANS[1], rtol=1e-12)
    np.testing.assert_allclose(at_noise.eps, x, rtol=1e-12)
    at_data = truth.estimate(dist, sde, x, 0.0)
    np.testing.assert_allclose(at_data.x0, x, rtol=1e-12)
    np.testing.assert_allclose(at_data.eps, 0.0, atol=1e-12)


def test_samples_have_the_mixtures_moments(dist):
    keys = jax.random.split(jax.random.key(0), 20_000)
    x = np.asarray(jax.jit(jax.vmap(lambda key: truth.sample(key, dist)))(keys))
    mean = 0.3 * MEANS[0] + 0.7 * MEANS[1]
    assert_mean(x, mean)
    second = 0.3 * (COVS[0] + np.outer(MEANS[0], MEANS[0]))
    second += 0.7 * (COVS[1] + np.outer(MEANS[1], MEANS[1]))
    assert_mean(x[:, :, None] * x[:, None, :], second)
    # A third moment tells which weight goes with which component: E[(x - a)^3] of component k.
    for axis in range(2):
        m, v = MEANS[:, axis], COVS[:, axis, axis]
        third = np.asarray([0.3, 0.7]) @ ((m - mean[axis]) ** 3 + 3 * (m - mean[axis]) * v)
        assert_mean((x[:, axis] - mean[axis]) ** 3, third)


@pytest.mark.parametrize("name", SDES)
def test_the_flow_of_a_gaussian_solves_its_equation(name, x64):
    """d/dt of the map is the velocity, for a full covariance and the same z at every t."""
    dist = truth.gaussian(jnp.asarray(MEANS[0]), jnp.asarray(COVS[1]))
    z, t = jnp.asarray([0.7, -1.2]), jnp.asarray(TIMES[name])
    x, slope = jax.jvp(lambda t: truth.gaussian_flow(dist, SDES[name], z, t), (t,), (jnp.ones(()),))
    np.testing.assert_allclose(slope, truth.velocity(dist, SDES[name], x, t), rtol=1e-10)


def test_the_flow_maps_the_normal_to_the_noised_gaussian(x64):
    dist = truth.gaussian(jnp.asarray(MEANS[0]), jnp.asarray(COVS[1]))
    sde, t = processes.vp(), jnp.asarray(0.3)
    flow = jax.jacfwd(lambda z: truth.gaussian_flow(dist, sde, z, t))(jnp.zeros(2))
    c = coefficients(sde, t)
    expected = c.alpha**2 * COVS[1] + c.sigma**2 * np.eye(2)
    np.testing.assert_allclose(flow @ flow.T, expected, rtol=1e-12)
    at_zero = truth.gaussian_flow(dist, sde, jnp.zeros(2), t)
    np.testing.assert_allclose(at_zero, c.alpha * MEANS[0], rtol=1e-12)


def test_the_flow_of_a_mixture_is_refused(dist):
    with pytest.raises(ValueError, match="got 2 components; expected 1"):
        truth.gaussian_flow(dist, processes.vp(), jnp.zeros(2), jnp.asarray(0.5))
