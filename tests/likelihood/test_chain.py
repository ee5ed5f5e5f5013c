import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from bounds import MEAN, PAIRS, STD, ideal_rate, line, normal_nodes, prior_kl, process, through
from oracles import PROCESSES, PUBLISHED
from stats import assert_mean, slope

from sdejax import grids, processes, truth
from sdejax.likelihood.chain import chain_bound, posterior, transition_term
from sdejax.likelihood.decoders import discretised, gaussian
from sdejax.prediction import Estimate

KEY = jax.random.key(0)


def published(name, ts):
    p, ts = PUBLISHED[name], np.asarray(ts).astype(np.longdouble)
    return p.alpha(ts), p.sigma(ts)


@pytest.mark.parametrize(("t", "s"), [(0.6, 0.55), (0.6, 0.1), (1.0, 0.8)])
@pytest.mark.parametrize("name", ["sub_vp", "rectified_flow"])
def test_the_posterior_is_that_of_bayes(name, t, s, x64):
    """q(x_s | x_t, x) from q(x_t | x_s) q(x_s | x) on a grid of x_s."""
    (a_t, a_s), (s_t, s_s) = (np.asarray(k, float) for k in published(name, [t, s]))
    x, x_t = 1.3, a_t * 0.4 + s_t * 0.9
    k = a_t / a_s
    y, step = np.linspace(-12, 12, 200_001, retstep=True)
    forward = scipy.stats.norm.logpdf(x_t, k * y, np.sqrt(s_t**2 - (k * s_s) ** 2))
    density = np.exp(forward + scipy.stats.norm.logpdf(y, a_s * x, s_s))
    density /= density.sum() * step
    mean = (density * y).sum() * step
    q = posterior(process(name), t, s)
    np.testing.assert_allclose(q.along_x * x_t + q.along_x0 * x, mean, rtol=1e-9)
    np.testing.assert_allclose(q.variance, (density * (y - mean) ** 2).sum() * step, rtol=1e-9)


def fixed(sde, x0):
    """A denoiser of one x0_hat: its terms have no noise."""

    def denoiser(x, t):
        guess = jnp.full_like(x, x0)
        return Estimate(guess, (x - sde.alpha(t) * guess) / sde.sigma(t))

    return denoiser


def steps_of(name, ts, nu):
    """(alpha_s beta/sigma_t^2)^2/(2 v) and beta~/v of each step, by the two variances."""
    a, s = published(name, ts)
    a_t, a_s, s_t, s_s = a[:-1], a[1:], s[:-1], s[1:]
    beta = s_t**2 - (a_t / a_s * s_s) ** 2
    tilde = beta * (s_s / s_t) ** 2
    v = tilde ** (1 - nu) * beta**nu
    return (a_s * beta / s_t**2) ** 2 / (2 * v), tilde / v


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_all_terms_of_a_fixed_guess(name, nu, x64):
    """L_0 .. L_T in closed form: beta~, beta and between, two entries, from t = 1 on the line."""
    sde, p = process(name), PUBLISHED[name]
    x, ts = np.asarray([1.5, -0.4]), grids.quadratic(sde, 9)
    bound = jax.jit(
        lambda x: chain_bound(KEY, sde, fixed(sde, 0.2), x, ts, decoder=gaussian(0.3), variance=nu)
    )(jnp.asarray(x))
    along, quotient = steps_of(name, ts, nu)
    steps = along * np.sum((x - 0.2) ** 2) + quotient - 1 - np.log(quotient)
    np.testing.assert_allclose(bound.terms[1:-1], steps[::-1].astype(float), rtol=1e-9)
    last = sum(prior_kl(name, each) for each in x)
    np.testing.assert_allclose(bound.terms[-1], last, rtol=1e-9, atol=1e-12)
    ratio = float(p.sigma(np.longdouble(p.t_min)) / p.alpha(np.longdouble(p.t_min)))
    first = 2 * np.log(0.3 * np.sqrt(2 * np.pi)) + (ratio / 0.3) ** 2
    np.testing.assert_allclose(bound.terms[0], first, rtol=1e-9)
    np.testing.assert_allclose(bound.log_p, -np.sum(bound.terms), rtol=1e-12)
    np.testing.assert_allclose(bound.bits_per_dim, -bound.log_p / np.log(4), rtol=1e-12)
    assert bound.nfe == 9
    assert np.isnan(bound.standard_error)


@pytest.mark.parametrize(("name", "prediction"), PAIRS)
def test_transitions_of_gaussian_data(name, prediction, x64):
    """Their mean over the noise, for the exact denoiser as a network of one prediction gives it.

    x0_hat - x = (sigma^2 (m - x) + alpha S^2 sigma eps)/(alpha^2 S^2 + sigma^2).
    """
    sde, x = process(name), 1.5
    denoiser = through(line(), sde, prediction)
    ts = grids.quadratic(sde, 9)
    z, w = normal_nodes(6)

    def mean(t, s):
        each = jax.vmap(
            lambda z: transition_term(sde, denoiser, jnp.asarray([x]), z[None], t, s, 0.5)
        )
        return w @ each(z)

    got = jax.jit(jax.vmap(mean))(ts[:-1], ts[1:])
    a, s = (k[:-1] for k in published(name, ts))
    total = (a * STD) ** 2 + s**2
    square = (s**4 * (MEAN - x) ** 2 + (a * STD**2 * s) ** 2) / total**2
    expected = steps_of(name, ts, 0.5)[0] * square
    np.testing.assert_allclose(got, expected.astype(float), rtol=1e-8)


def test_the_sum_tends_to_the_integral_as_1_over_t(x64):
    """Order 1 in the number of steps, to the loss of continuous time."""
    sde, x = processes.vp(), 1.5
    denoiser = truth.denoiser(line(), sde)
    z, w = normal_nodes(6)

    def total(ts):
        def mean(t, s):
            each = jax.vmap(
                lambda z: transition_term(sde, denoiser, jnp.asarray([x]), z[None], t, s)
            )
            return w @ each(z)

        return jnp.sum(jax.vmap(mean)(ts[:-1], ts[1:]))

    fine = np.geomspace(sde.t_min, sde.t_max, 400_001)
    rate = ideal_rate("vp", fine, x)
    exact = np.sum(0.5 * (rate[1:] + rate[:-1]) * np.diff(fine))
    ns = [128, 256, 512, 1024, 2048]
    errors = [float(jax.jit(total)(grids.quadratic(sde, n))) - exact for n in ns]
    assert min(errors) > 0  # the coarser bound is the looser
    assert -1.05 < slope(ns, errors) < -0.95, errors


@pytest.mark.parametrize("nu", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_bound_of_a_discrete_distribution_lies_above_its_entropy(nu, strict):
    """Five levels of known probabilities, exact denoiser, discretised decoder, in float32.

    In the mean over the levels it exceeds the entropy, by an amount that goes with 1/T.
    """
    probabilities = np.asarray([0.1, 0.45, 0.05, 0.3, 0.1])
    levels = jnp.linspace(-1.0, 1.0, 5)[:, None]
    log_weights = jnp.asarray(np.log(probabilities), jnp.float32)
    dist = truth.empirical(levels)._replace(log_weights=log_weights)
    sde = processes.vp()
    denoiser, decoder = truth.denoiser(dist, sde), discretised(5)

    def gap(steps):
        ts = grids.quadratic(sde, steps)

        def nll(key, x):
            return -chain_bound(key, sde, denoiser, x, ts, decoder=decoder, variance=nu).log_p

        keys = jax.random.split(KEY, (500, 5))
        values = jax.jit(jax.vmap(jax.vmap(nll), (0, None)))(keys, levels)
        excess = np.asarray(values) @ probabilities - scipy.stats.entropy(probabilities)
        return excess.mean(), excess.std() / np.sqrt(500)

    (coarse, coarse_error), (fine, fine_error) = gap(40), gap(160)
    assert coarse > 5 * coarse_error
    assert fine > 3 * fine_error
    error = np.hypot(coarse_error, 4 * fine_error)
    assert abs(4 * fine - coarse) < 5 * error + 0.2 * coarse, (coarse, fine, error)


@pytest.mark.parametrize("own", [False, True])
def test_a_subset_of_the_terms_has_their_mean_and_its_error(own):
    """K = 8 of 30 transitions: each term's mean, the reported error, and the calls."""
    sde, x = processes.cosine(), jnp.asarray([1.5, 0.3])
    ts = grids.uniform(sde, 30)
    probabilities = jnp.linspace(1.0, 3.0, 30) if own else None
    keys = jax.random.split(KEY, 2000)

    def run(key):
        return chain_bound(
            key, sde, fixed(sde, 0.2), x, ts, samples=8, probabilities=probabilities, variance=1.0
        )

    bound = jax.jit(jax.vmap(run))(keys)
    full = chain_bound(KEY, sde, fixed(sde, 0.2), x, ts, variance=1.0)
    assert np.all(bound.nfe == 8)
    assert_mean(bound.log_p, full.log_p)
    last = None if own else 12  # the others, 1 % of the sum, are hardly ever drawn
    assert_mean(bound.terms[:, 1:-1][:, :last], full.terms[1:-1][:last])
    np.testing.assert_allclose(bound.terms[:, 0], full.terms[0], rtol=1e-6)


def test_the_error_of_a_subset_is_its_spread():
    sde, x = processes.vp(), jnp.asarray([1.1, 0.3])
    denoiser = truth.denoiser(truth.gaussian(jnp.zeros(2), jnp.eye(2)), sde)
    ts = grids.uniform(sde, 100)
    run = jax.vmap(lambda key: chain_bound(key, sde, denoiser, x, ts, samples=16))
    bound = jax.jit(run)(jax.random.split(KEY, 2000))
    reported = np.sqrt(np.mean(np.asarray(bound.standard_error) ** 2))
    assert 0.9 < reported / np.std(bound.log_p) < 1.1


def test_a_full_pass_takes_memory_that_does_not_grow_with_t():
    """64 levels and 2048: but for a few numbers a level, what one evaluation takes."""
    sde, d = processes.vp(), 16_384
    denoiser = fixed(sde, 0.2)

    def memory(levels):
        ts = grids.uniform(sde, levels - 1)
        run = jax.jit(lambda x: chain_bound(KEY, sde, denoiser, x, ts))
        return run.lower(jnp.zeros(d)).compile().memory_analysis().temp_size_in_bytes

    few, many = memory(64), memory(2048)
    assert many - few < 100 * 2048
    assert few < 16 * 4 * d


def test_bad_arguments():
    sde, x = processes.vp(), jnp.ones(1)
    ts = grids.uniform(sde, 4)

    def run(ts, **settings):
        return chain_bound(KEY, sde, fixed(sde, 0.2), x, ts, **settings)

    with pytest.raises(ValueError, match="1 levels"):
        run(ts[:1])
    with pytest.raises(ValueError, match="samples=0"):
        run(ts, samples=0)
    with pytest.raises(ValueError, match="3 probabilities for 4"):
        run(ts, samples=2, probabilities=jnp.ones(3))
    with pytest.raises(ValueError, match="decreasing"):
        run(ts[::-1])
    with pytest.raises(ValueError, match="sigma = 0"):
        run(jnp.asarray([1.0, 0.5, 0.0]))
