"""Densities, posteriors, scores, samples and flows against SciPy, quadrature and autodiff."""

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
FACTORS = np.asarray([[[0.5], [0.3]], [[-0.2], [0.6]]])
FLOORS = np.asarray([0.2, 0.45])
LOW_RANK = FACTORS @ FACTORS.swapaxes(1, 2) + FLOORS[:, None, None] ** 2 * np.eye(2)
ROUND = FLOORS[:, None, None] ** 2 * np.eye(2)
POINTS = np.zeros((2, 2, 2))
SDES = {
    "sub_vp": processes.sub_vp(),
    "ve": processes.ve(0.1, 5.0),
    "rectified_flow": processes.rectified_flow(),
}
TIMES = {"sub_vp": 0.25, "ve": 0.55, "rectified_flow": 0.4}
# name: how it is made, and the covariances that SciPy is given
KINDS = {
    "full": (lambda: truth.mixture(*arrays(WEIGHTS, MEANS, COVS)), COVS),
    "low_rank": (lambda: truth.low_rank(*arrays(WEIGHTS, MEANS, FACTORS, FLOORS)), LOW_RANK),
    "isotropic": (lambda: truth.isotropic(*arrays(WEIGHTS, MEANS, FLOORS)), ROUND),
    "points": (lambda: truth.isotropic(*arrays(WEIGHTS, MEANS, np.zeros(2))), POINTS),
}
CASES = [("full", name) for name in SDES] + [("low_rank", "sub_vp"), ("isotropic", "ve")]
CASES += [("points", "rectified_flow")]


def arrays(*parts):
    return tuple(map(jnp.asarray, parts))


@pytest.fixture
def dist(x64):
    return truth.mixture(*arrays(WEIGHTS, MEANS, COVS))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_log_prob_is_the_mixtures(kind, name, x64):
    make, covs = KINDS[kind]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)) * 2)
    dist, sde, t = make(), SDES[name], TIMES[name]
    log_p = jax.jit(jax.vmap(lambda x: truth.log_prob(dist, sde, x, t)))(x)
    c = coefficients(sde, t)
    first, second = (
        scipy.stats.multivariate_normal(c.alpha * m, c.alpha**2 * C + c.sigma**2 * np.eye(2))
        for m, C in zip(MEANS, covs, strict=True)
    )
    expected = np.logaddexp(np.log(0.3) + first.logpdf(x), np.log(0.7) + second.logpdf(x))
    np.testing.assert_allclose(log_p, expected, rtol=1e-10)


def test_the_density_integrates_to_one(dist):
    axis = np.linspace(-9, 9, 241)
    x = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    log_p = jax.jit(jax.vmap(lambda x: truth.log_prob(dist, processes.vp(), x, 0.2)))(x)
    density = np.exp(log_p)
    np.testing.assert_allclose(density.sum() * (axis[1] - axis[0]) ** 2, 1.0, rtol=1e-8)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_score_is_the_gradient_and_the_velocity_carries_the_density(kind, name, x64):
    """The continuity equation d log p/dt + div v + v . score = 0, by automatic derivatives."""
    sde, dist = SDES[name], KINDS[kind][0]()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(12, 2)) * 1.5)
    times = jnp.asarray([0.15, TIMES[name], 0.9])

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


@pytest.mark.parametrize("kind", ["full", "low_rank", "isotropic"])
def test_the_ends_are_finite(kind, x64):
    sde, dist = SDES["rectified_flow"], KINDS[kind][0]()
    x = jnp.asarray([0.3, -0.4])
    at_noise = truth.estimate(dist, sde, x, 1.0)
    np.testing.assert_allclose(at_noise.x0, 0.3 * MEANS[0] + 0.7 * MEANS[1], rtol=1e-12)
    np.testing.assert_allclose(at_noise.eps, x, rtol=1e-12)
    at_data = truth.estimate(dist, sde, x, 0.0)
    np.testing.assert_allclose(at_data.x0, x, rtol=1e-12)
    np.testing.assert_allclose(at_data.eps, 0.0, atol=1e-12)


def test_low_rank_in_many_dimensions_is_the_dense_formula(x64):
    """Woodbury against matrices in 12 dimensions: rank 3, and rank 12 against its dense form."""
    rng = np.random.default_rng(2)
    weights, means = rng.random(4) + 0.1, rng.normal(size=(4, 12))
    floors = np.geomspace(0.05, 0.4, 4)
    sde, t = processes.vp(), 0.3
    x = rng.normal(size=12)
    c = coefficients(sde, t)
    for rank in (3, 12):
        factors = rng.normal(size=(4, 12, rank)) * 0.6
        covs = factors @ factors.swapaxes(1, 2) + floors[:, None, None] ** 2 * np.eye(12)
        dist = truth.low_rank(*arrays(weights, means, factors, floors))
        noised = float(c.alpha) ** 2 * covs + float(c.sigma) ** 2 * np.eye(12)
        log_p = np.log(weights / weights.sum()) + np.asarray(
            [
                scipy.stats.multivariate_normal(c.alpha * m, V).logpdf(x)
                for m, V in zip(means, noised, strict=True)
            ]
        )
        share = scipy.special.softmax(log_p)
        gain = np.stack(
            [np.linalg.solve(V, x - c.alpha * m) for m, V in zip(means, noised, strict=True)]
        )
        x0 = share @ (means + float(c.alpha) * np.einsum("kij,kj->ki", covs, gain))
        log_prob, estimate = jax.jit(
            lambda x, dist=dist: (
                truth.log_prob(dist, sde, x, t),
                truth.estimate(dist, sde, x, t),
            )
        )(jnp.asarray(x))
        np.testing.assert_allclose(log_prob, scipy.special.logsumexp(log_p), rtol=1e-11)
        np.testing.assert_allclose(estimate.x0, x0, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(estimate.eps, float(c.sigma) * share @ gain, rtol=1e-9)
        np.testing.assert_allclose(
            truth.covariance(dist),
            truth.covariance(truth.mixture(*arrays(weights, means, covs))),
            rtol=1e-10,
            atol=1e-11,
        )


def test_nothing_of_size_d_by_d_is_made():
    """A million dimensions at rank 2: a d x d array would take four terabytes."""
    d = 1_000_000
    rng = np.random.default_rng(3)
    parts = [0.5, 0.5], rng.normal(size=(2, d)), rng.normal(size=(2, d, 2)), [0.1, 0.2]
    dist = truth.low_rank(*(jnp.asarray(part, jnp.float32) for part in parts))
    x = truth.sample(jax.random.key(0), dist)
    found = jax.jit(lambda x: truth.estimate(dist, processes.vp(), x, 0.5))(x)
    assert found.x0.shape == (d,)
    assert jnp.all(jnp.isfinite(found.x0))


@pytest.mark.parametrize("kind", ["full", "low_rank", "isotropic"])
def test_samples_have_the_mixtures_moments_at_any_time(kind, x64):
    """Mean, covariance and skewness of x_0 and of x_t, in standard errors."""
    make, covs = KINDS[kind]
    dist, sde = make(), SDES["sub_vp"]
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(
        jax.vmap(lambda k: (truth.sample(k, dist), truth.sample_at(k, dist, sde, 0.25)))
    )(keys)
    c = coefficients(sde, 0.25)
    for x, alpha, sigma in zip(draws, (1.0, float(c.alpha)), (0.0, float(c.sigma)), strict=True):
        x, means = np.asarray(x), alpha * MEANS
        noised = alpha**2 * covs + sigma**2 * np.eye(2)
        mean = 0.3 * means[0] + 0.7 * means[1]
        assert_mean(x, mean)
        second = 0.3 * (noised[0] + np.outer(means[0], means[0]))
        second += 0.7 * (noised[1] + np.outer(means[1], means[1]))
        assert_mean(x[:, :, None] * x[:, None, :], second)
        # A third moment tells which weight goes with which component.
        for axis in range(2):
            m, v = means[:, axis], noised[:, axis, axis]
            third = np.asarray([0.3, 0.7]) @ ((m - mean[axis]) ** 3 + 3 * (m - mean[axis]) * v)
            assert_mean((x[:, axis] - mean[axis]) ** 3, third)


@pytest.mark.parametrize("name", SDES)
def test_the_flow_of_a_gaussian_solves_its_equation(name, x64):
    """d/dt of the map is the velocity, for a full covariance and the same z at every t."""
    full = truth.gaussian(jnp.asarray(MEANS[0]), jnp.asarray(COVS[1]))
    one = arrays(np.ones(1), MEANS[:1], FACTORS[:1], FLOORS[:1])
    z, t, sde = jnp.asarray([0.7, -1.2]), jnp.asarray(TIMES[name]), SDES[name]
    for dist in (full, truth.low_rank(*one)):
        x, slope = jax.jvp(
            lambda t, dist=dist: truth.gaussian_flow(dist, sde, z, t), (t,), (jnp.ones(()),)
        )
        np.testing.assert_allclose(slope, truth.velocity(dist, sde, x, t), rtol=1e-10)


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


def test_an_answer_has_the_dtype_of_its_question(x64):
    """A distribution in float64 serves float32 states, and the other way round."""
    for own, asked in ((jnp.float64, jnp.float32), (jnp.float32, jnp.float64)):
        dist = truth.low_rank(*(jnp.asarray(p, own) for p in (WEIGHTS, MEANS, FACTORS, FLOORS)))
        x = jnp.asarray([0.3, -0.4], asked)
        found = jax.eval_shape(
            lambda x, dist=dist: (
                truth.estimate(dist, processes.vp(), x, jnp.asarray(0.3, x.dtype), chunk=1),
                truth.log_prob(dist, processes.vp(), x, 0.3),
                truth.gaussian_flow(jax.tree.map(lambda a: a[:1], dist), processes.vp(), x, 0.3),
            ),
            x,
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(asked)}
