"""Two pixels of eight levels with known probabilities, under a density known exactly.

The model is a skewed, correlated mixture at t_min of a process; its probability of each of the 64
pairs is a Gauss-Legendre integral over the pair's bin. In the mean over the data

    entropy <= exact <= K-sample bound <= one-sample bound    (nats, negative log-likelihoods)

for uniform noise and for noise fitted to the density, which makes the tighter bounds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax import processes, truth
from sdejax.likelihood.dequantisation import discrete_bound, uniform, variational
from sdejax.likelihood.fit_dequantiser import fit_dequantiser
from sdejax.likelihood.quantisation import log_det, quantisation, to_continuous
from sdejax.nets.dequantiser import NoiseConditioner, init_noise_network, noise_network

KEY = jax.random.key(0)
LEVELS, K = 8, 8
Q = quantisation(3.5, 3.5, LEVELS)  # onto [-1, 1], in bins 2/7 wide
PAIRS = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1).reshape(64, 2)
COUNT = 6000  # draws of data and noise


def data_probabilities():
    """Of the 64 pairs: a correlated slope with a bump, in integers over their sum."""
    i, j = PAIRS.T
    table = 1 + (i + 1) * (i < j + 3) + 40 * (abs(i - 5) + abs(j - 6) < 2) + 9 * (i + j < 3)
    return table / table.sum()


SDE = processes.vp(t_min=0.01)


def density(key, y):
    """log p at t_min of a mixture: narrow against a bin in one direction, wide in the other."""
    means = jnp.asarray([[0.4, 0.7], [-0.5, -0.3]], y.dtype)
    covs = jnp.asarray([[[0.03, 0.02], [0.02, 0.03]], [[0.16, 0.10], [0.10, 0.12]]], y.dtype)
    dist = truth.mixture(jnp.asarray([0.4, 0.6], y.dtype), means, covs)
    return truth.log_prob(dist, SDE, y, SDE.t_min)


def quadrature(nodes):
    """log P of the 64 pairs and the mean over their bins of log p |dy/du|, in float64."""
    with jax.enable_x64(True):
        place, weight = np.polynomial.legendre.leggauss(nodes)
        place, weight = (place + 1) / 2, weight / 2
        u = np.stack(np.meshgrid(place, place, indexing="ij"), axis=-1).reshape(-1, 2)
        weight = np.outer(weight, weight).ravel()

        def one(k):
            y = jax.vmap(lambda u: to_continuous(Q, k, u))(jnp.asarray(u))
            log_w = jax.vmap(lambda y: density(None, y))(y) + log_det(Q, (2,))
            return jnp.log(jnp.sum(weight * jnp.exp(log_w))), jnp.sum(weight * log_w)

        return tuple(np.asarray(part) for part in jax.jit(jax.vmap(one))(jnp.asarray(PAIRS)))


@pytest.fixture(scope="module")
def exact():
    return quadrature(32)


@pytest.fixture(scope="module")
def noises():
    """Uniform noise, and noise fitted to the density on draws of the data."""
    module = NoiseConditioner(16, depth=2)
    deq = variational(noise_network(module), LEVELS)
    rng = np.random.default_rng(1)
    train, held_out = (PAIRS[rng.choice(64, n, p=data_probabilities())] for n in (2000, 500))
    params, _ = fit_dequantiser(
        KEY, deq, init_noise_network(KEY, module, (2,), 4), density, Q, train, held_out,
        iterations=400, batch=128, learning_rate=1e-2, checks=4,
    )  # fmt: skip
    return {"uniform": (uniform(), None), "variational": (deq, params)}


@pytest.fixture(scope="module")
def bounds(noises):
    """For each noise, log-weights [COUNT, K] for the same draws of the data, and those draws."""
    rows = np.random.default_rng(2).choice(64, COUNT, p=data_probabilities())
    keys, ks = jax.random.split(jax.random.key(3), COUNT), jnp.asarray(PAIRS[rows])

    def weights(deq, params):
        def one(key, k):
            found = discrete_bound(key, density, Q, k, dequantiser=deq, params=params, samples=K)
            return found.log_p, found.log_weights

        return tuple(np.asarray(part, float) for part in jax.jit(jax.vmap(one))(keys, ks))

    return rows, {name: weights(*noise) for name, noise in noises.items()}


def above(values):
    """The mean is above 0 by five standard errors."""
    return np.mean(values) > 5 * np.std(values) / np.sqrt(len(values))


def test_the_quadrature_is_exact_and_the_probabilities_add_up_to_less_than_one(exact):
    log_p, _ = exact
    np.testing.assert_allclose(log_p, quadrature(20)[0], atol=1e-9)
    total = np.sum(np.exp(log_p))
    assert 0.9 < total < 1.0  # the rest of the density is outside of all bins
    # The same mass by draws of the model itself.
    with jax.enable_x64(False):
        means = jnp.asarray([[0.4, 0.7], [-0.5, -0.3]])
        covs = jnp.asarray([[[0.03, 0.02], [0.02, 0.03]], [[0.16, 0.10], [0.10, 0.12]]])
        dist = truth.mixture(jnp.asarray([0.4, 0.6]), means, covs)
        draw = jax.jit(jax.vmap(lambda key: truth.sample_at(key, dist, SDE, SDE.t_min)))
        v = 3.5 * np.asarray(draw(jax.random.split(KEY, 100_000))) + 4.0
    inside = np.all((v >= 0) & (v < 8), axis=1)
    assert_mean(inside.astype(float), total)
    for pair in ([5, 6], [2, 3], [7, 7]):
        hits = np.all(np.floor(v) == pair, axis=1)
        assert_mean(hits.astype(float), np.exp(log_p[pair[0] * 8 + pair[1]]))


def test_entropy_is_below_the_exact_negative_log_likelihood(exact):
    p = data_probabilities()
    entropy, cross = -np.sum(p * np.log(p)), -np.sum(p * exact[0])
    assert 0 < entropy < np.log(64)
    assert entropy < cross
    # Gibbs: what lies between is the relative entropy, which the missing mass only adds to.
    total = np.sum(np.exp(exact[0]))
    assert cross - entropy >= -np.log(total)


@pytest.mark.parametrize("name", ["uniform", "variational"])
def test_exact_then_many_samples_then_one(exact, bounds, name):
    rows, found = bounds
    many, weights = found[name]
    log_p = exact[0][rows]
    assert above(log_p - many)
    assert above(many - weights[:, 0])
    # exp(weight) is unbiased for the mass, pair by pair.
    assert_mean(np.exp(weights - log_p[:, None]).mean(axis=1), 1.0)
    if name == "uniform":  # the one-sample bound is itself an integral
        assert_mean(weights[:, 0] - exact[1][rows], 0.0)


def test_fitted_noise_makes_the_tighter_bounds_on_the_same_density(exact, bounds):
    rows, found = bounds
    (many_uniform, uniform_weights), (many_fitted, fitted_weights) = found.values()
    assert above(many_fitted - many_uniform)
    assert above(fitted_weights[:, 0] - uniform_weights[:, 0])
    log_p = exact[0][rows]
    # Most of what uniform noise loses is won back.
    lost = [np.mean(log_p - weights[:, 0]) for weights in (uniform_weights, fitted_weights)]
    assert lost[1] < 0.3 * lost[0], lost


@pytest.mark.parametrize("name", ["uniform", "variational"])
def test_with_many_samples_the_bound_is_the_quadrature(exact, noises, name):
    """K = 20,000 for three pairs: within five standard errors by the delta method, below 0.05."""
    deq, params = noises[name]
    count = 20_000

    @jax.jit
    def bound(k):
        return discrete_bound(
            KEY, density, Q, k, dequantiser=deq, params=params, samples=count, chunk=5000
        )

    for pair in ([5, 6], [2, 3], [7, 0]):
        found, log_p = bound(jnp.asarray(pair)), exact[0][pair[0] * 8 + pair[1]]
        ratio = np.exp(np.asarray(found.log_weights, float) - log_p)
        error = ratio.std() / ratio.mean() / np.sqrt(count)
        assert error < 0.05
        assert abs(float(found.log_p) - log_p) < 5 * error
