import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bounds import MEAN, PAIRS, STD, ideal_rate, line, normal_nodes, over_times, process, through
from oracles import PROCESSES, PUBLISHED, interior, skewed

from sdejax import divergence, processes, times, truth
from sdejax.likelihood.terms import (
    data_term,
    implicit_term,
    pair_error,
    prior_term,
    state_term,
    transition,
)
from sdejax.prediction import Estimate
from sdejax.sde import coefficients, perturb

KEY = jax.random.key(0)


@pytest.mark.parametrize("form", ["pair", "trace"])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_state_bound_of_a_mixture_is_an_equality(name, form, x64):
    """E log p_T(x_T) - integral = log p_tmin(x) by quadrature, with the exact score and p_T.

    The linear path stops at t = 0.99, since g is infinite at 1.
    """
    sde = process(name, 0.99)
    dist = truth.mixture(*map(jnp.asarray, skewed(np.float64)))
    denoiser = truth.denoiser(dist, sde)
    z, w = normal_nodes(120)
    x = jnp.asarray([[-2.3], [-0.6], [0.9], [2.4]])

    def term(x, z, t):
        if form == "pair":
            return state_term(sde, denoiser, x, z, t)
        return implicit_term(KEY, sde, denoiser, x, z, t, divergence.exact())

    def over_noise(x, t):
        return w @ jax.vmap(lambda z: term(x, z[None], t))(z)

    def at_the_end(x):
        scale, std = transition(sde, sde.t_max, x)
        ends = jax.vmap(lambda z: truth.log_prob(dist, sde, scale * x + std * z, sde.t_max))
        return w @ ends(z)

    density = times.uniform_log_snr(sde)
    rate = jax.jit(jax.vmap(jax.vmap(over_noise, (None, 0)), (0, None)))
    start, exact = jax.jit(
        jax.vmap(lambda x: (at_the_end(x), truth.log_prob(dist, sde, x, sde.t_min)))
    )(x)
    for i in range(4):
        integral = over_times(density, lambda t, i=i: rate(x[i : i + 1], t)[0])
        np.testing.assert_allclose(start[i] - integral, exact[i], atol=2e-7)


@pytest.mark.parametrize(("name", "prediction"), PAIRS)
def test_the_data_term_of_gaussian_data(name, prediction, x64):
    """Its mean over the noise, from the published formulas, for x near and far."""
    sde = process(name)
    denoiser = through(line(), sde, prediction)
    z, w = normal_nodes(12)
    t = interior(name, 9)
    for x in (0.1, 2.5):
        terms = jax.vmap(
            jax.vmap(
                lambda z, t, x=x: data_term(sde, denoiser, jnp.asarray([x]), z[None], t), (0, None)
            ),
            (None, 0),
        )
        got = jax.jit(terms)(z, jnp.asarray(t)) @ w
        np.testing.assert_allclose(got, ideal_rate(name, t, x), rtol=1e-8)


@pytest.mark.parametrize("prediction", ["velocity", "v", "x0", "edm"])
def test_the_data_term_vanishes_at_the_singular_end(prediction):
    """At alpha = 0 the weight is infinite, the term is 0 and its neighbours are its limit."""
    sde = processes.rectified_flow()
    denoiser = through(line(), sde, prediction)
    term = jax.jit(lambda t: data_term(sde, denoiser, jnp.asarray([2.5]), jnp.asarray([0.3]), t))
    assert term(1.0) == 0.0
    assert 0.0 < term(0.9999) < 1e-3


@pytest.mark.parametrize("name", PROCESSES)
def test_a_linear_score_error_costs_girsanov_s_kl(name, x64):
    """Mean over data of either form: right minus wrong score is g^2/2 E|s - s*|^2 at each time.

    s - s* = b x + c, and x_t ~ N(alpha m, alpha^2 S^2 + sigma^2).
    """
    sde, p = process(name), PUBLISHED[name]
    b, c = 0.3, -0.2
    exact = truth.denoiser(line(), sde)

    def wrong(x, t):
        k, estimate = coefficients(sde, t), exact(x, t)
        away = k.sigma * (b * x + c)
        return Estimate(estimate.x0 + k.sigma / k.alpha * away, estimate.eps - away)

    z, w = normal_nodes(12)
    start = coefficients(sde, sde.t_min)
    spread = jnp.sqrt((start.alpha * STD) ** 2 + start.sigma**2)

    def means(t):
        def one(y, z):
            x0, state = (MEAN + STD * y)[None], (start.alpha * MEAN + spread * y)[None]
            data = [data_term(sde, d, x0, z[None], t) for d in (wrong, exact)]
            pair = [state_term(sde, d, state, z[None], t) for d in (wrong, exact)]
            return jnp.stack([data[0] - data[1], pair[0] - pair[1]])

        values = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(z, z)
        return jnp.einsum("i,j,ijk->k", w, w, values)

    t = interior(name, 7)[1:-1]
    got = jax.jit(jax.vmap(means))(jnp.asarray(t))
    s = t.astype(np.longdouble)
    m, v = p.alpha(s) * MEAN, (p.alpha(s) * STD) ** 2 + p.sigma(s) ** 2
    kl = 0.5 * p.g(s) ** 2 * (b**2 * (m**2 + v) + 2 * b * c * m + c**2)
    np.testing.assert_allclose(got[:, 0], kl, rtol=2e-6)
    np.testing.assert_allclose(got[:, 1], kl, rtol=2e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_error_of_the_pair_keeps_its_digits_in_float32(name):
    """Against float64 near both ends, where one half of the pair has lost them."""
    sde = process(name)
    t, rng = interior(name, 5, np.float32), np.random.default_rng(0)
    x0, eps, out = rng.normal(size=(3, 64)).astype(np.float32)

    def error(x0, eps, out, t):
        c = jax.tree.map(lambda k: k.astype(x0.dtype), coefficients(sde, t))
        x = perturb(sde, x0, eps, t)
        guess = c.alpha * out - c.sigma * x0 * 0.5  # of (alpha, -sigma)-output, never singular
        det = c.alpha**2 + c.sigma**2
        pair = Estimate(
            (c.alpha * x - c.sigma * guess) / det, (c.sigma * x + c.alpha * guess) / det
        )
        return pair_error(pair, x0, eps, c) * det

    single = jax.jit(jax.vmap(error, (None, None, None, 0)))(x0, eps, out, t)
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in (x0, eps, out, t)]
        double = jax.jit(jax.vmap(error, (None, None, None, 0)))(*wide)
    np.testing.assert_allclose(single, double, rtol=2e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_transition_is_the_processes_own(name, x64):
    """k and sigma_{t|s} from the published alpha and sigma in longdouble; kept above 0 at t_min."""
    sde, p = process(name), PUBLISHED[name]
    t = interior(name, 9)[1:]
    scale, std = jax.jit(jax.vmap(lambda t: transition(sde, t, jnp.ones(1))))(jnp.asarray(t))
    s, low = t.astype(np.longdouble), np.longdouble(p.t_min)
    k = p.alpha(s) / p.alpha(low)
    np.testing.assert_allclose(scale, k.astype(float), rtol=1e-9, atol=1e-15)
    far = t > p.t_min + 1e-3 * (p.t_max - p.t_min)
    variance = (p.sigma(s) ** 2 - (k * p.sigma(low)) ** 2).astype(float)
    np.testing.assert_allclose(np.asarray(std)[far] ** 2, variance[far], rtol=1e-9)
    assert 0 < transition(sde, sde.t_min, jnp.ones(1))[1] < 1e-6 * float(p.prior_std)


def test_the_prior_term(x64):
    """Closed for the process's prior, and the same through a log-density of one's own."""
    sde, mean = processes.ve(), jnp.asarray([30.0, -4.0])
    z, w = normal_nodes(3)  # exact for a quadratic
    std = jnp.asarray(20.0)
    logs = -0.5 * (mean[:, None] + 20.0 * z[None]) ** 2 / 50.0**2 - np.log(50 * np.sqrt(2 * np.pi))
    closed = prior_term(KEY, sde, mean, std)
    np.testing.assert_allclose(closed, jnp.sum(logs @ w), rtol=1e-13)

    def own(x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=50.0))

    keys = jax.random.split(KEY, 20_000)
    drawn = jax.jit(jax.vmap(lambda key: prior_term(key, sde, mean, std, own)))(keys)
    assert abs(drawn.mean() - closed) < 5 * drawn.std() / np.sqrt(20_000)
