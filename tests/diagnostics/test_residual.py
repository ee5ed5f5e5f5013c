"""The exact score obeys the score Fokker-Planck equation; what defects leave is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES, PUBLISHED
from planted import MIXTURE, assert_near, curled, draws, exact, gaussian, late, scaled

from sdejax import diagnostics, processes, truth
from sdejax.diagnostics import residual
from sdejax.diagnostics.levels import over_levels
from sdejax.sde import coefficients

TS = (0.1, 0.3, 0.8)
KEY = jax.random.key(5)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_score_leaves_nothing(x64, name):
    sde, dist = PROCESSES[name](), MIXTURE()
    ts = jnp.linspace(0.05, 1.0, 4) * sde.t_max  # of the linear path t = 1 too, where g is infinite
    found = residual(KEY, exact(dist, sde), sde, draws(dist, 20), ts)
    assert np.max(found.scaled.value) < 1e-20
    assert np.max(found.square.value) < 1e-20
    assert np.all(found.scaled.error < 1e-20)


def closed(form, sde, x0, ts):
    """The mean of |form(x, t)|^2 per entry, over the x_t that ``residual`` draws."""

    def single(key, at, x, eps, t):
        return jnp.sum(form(x, t) ** 2) / x.size

    values = over_levels(KEY, single, lambda x, t: x, sde, x0, ts)
    return np.mean(values, axis=1)


def vp_terms(t):
    """f and g^2 of VP, beta = 0.1 + 19.9 t."""
    beta = 0.1 + 19.9 * t
    return -0.5 * beta, beta


def test_the_terms_are_the_papers():
    t, paper = np.asarray(TS), PUBLISHED["vp"]
    np.testing.assert_allclose(vp_terms(t), (paper.f(t), paper.g(t) ** 2), rtol=1e-12)


def test_a_scaled_score_of_a_skewed_mixture(x64):
    """r = -c (1 + c) g^2 H score, with H the Hessian of log p_t."""
    sde, dist, ts = processes.vp(), MIXTURE(), jnp.asarray(TS)
    x0 = draws(dist, 40)
    found = residual(KEY, scaled(dist, sde), sde, x0, ts)

    def form(x, t):
        log_p = lambda y: truth.log_prob(dist, sde, y, t)  # noqa: E731
        return 1.2 * 0.2 * vp_terms(t)[1] * jax.hessian(log_p)(x) @ jax.grad(log_p)(x)

    np.testing.assert_allclose(found.square.value, closed(form, sde, x0, ts), rtol=1e-9)
    sigma = np.asarray([float(sde.sigma(t)) for t in TS])
    factor = sigma**3 / np.asarray([vp_terms(t)[1] for t in TS])
    np.testing.assert_allclose(found.scaled.value, factor**2 * found.square.value, rtol=1e-9)


def test_an_added_curl(x64):
    """s + c R x leaves -g^2 grad(c s.R x + c^2 |x|^2/2), R x being of no divergence."""
    sde, dist, ts = processes.vp(), MIXTURE(), jnp.asarray(TS)
    x0 = draws(dist, 40)
    found = residual(KEY, curled(dist, sde), sde, x0, ts)

    def form(x, t):
        def potential(y):
            score = truth.score(dist, sde, y, t)
            twist = 0.3 * jnp.stack([-y[1], y[0]])
            return score @ twist + 0.5 * twist @ twist

        f, g2 = vp_terms(t)
        flow = jax.grad(lambda y: f * 0.3 * (y @ jnp.stack([-y[1], y[0]])))(x)
        return -g2 * jax.grad(potential)(x) + flow

    np.testing.assert_allclose(found.square.value, closed(form, sde, x0, ts), rtol=1e-9)


def test_the_noise_of_another_time(x64):
    """On a Gaussian, s = -M(t) (x - b(t)): r = d_t s - g^2 grad|s|^2/2 + f grad<x, s>."""
    sde, dist, ts = processes.vp(), gaussian(), jnp.asarray(TS)
    x0 = draws(dist, 40)
    found = residual(KEY, late(dist, sde), sde, x0, ts)

    def form(x, t):
        def parts(t):
            there = coefficients(sde, t + 0.05)
            m, cov = dist.means[0], truth.covariance(dist)
            v = there.alpha**2 * cov + there.sigma**2 * jnp.eye(2)
            return there.sigma / jnp.asarray(sde.sigma(t)) * jnp.linalg.inv(v), there.alpha * m

        (matrix, centre), (dmatrix, dcentre) = jax.jvp(parts, (t,), (jnp.ones_like(t),))
        f, g2 = vp_terms(t)
        away = x - centre
        moving = -dmatrix @ away + matrix @ dcentre
        return moving - g2 * matrix @ matrix @ away - f * (2 * matrix @ x - matrix @ centre)

    np.testing.assert_allclose(found.square.value, closed(form, sde, x0, ts), rtol=1e-8)


def test_probes_are_unbiased(x64):
    """With noisy traces as well: 0 for the exact score, and what all directions give."""
    sde, dist, ts = processes.vp(), MIXTURE(), jnp.asarray(TS)
    x0 = draws(dist, 2000)
    right = residual(KEY, exact(dist, sde), sde, x0, ts, probes=1)
    assert_near(right.scaled, 0.0)
    assert np.all(right.scaled.error[:2] > 1e-6)  # the traces are noisy, not so of Gaussians
    every = residual(KEY, scaled(dist, sde), sde, x0, ts)
    some = residual(KEY, scaled(dist, sde), sde, x0, ts, probes=3)
    assert_near(some.square, every.square.value)
    # Between two modes a one-probe trace changes fast with x: at t = 0.1 the error is as large.
    assert np.all(some.square.error[1:] < 0.2 * every.square.value[1:])


def test_units_of_data_and_of_time(x64):
    """``scaled`` is the same for VE and for EDM at the same sigma, whose times differ."""
    dist, x0 = MIXTURE(), draws(MIXTURE(), 30)
    found = []
    for sde in (processes.ve(), processes.edm()):
        ts = jax.vmap(sde.time_of_log_snr)(jnp.asarray([2.0, 0.0, -2.0]))
        found.append(residual(KEY, scaled(dist, sde), sde, x0, ts))
    np.testing.assert_allclose(found[0].scaled.value, found[1].scaled.value, rtol=1e-8)
    assert np.all(found[0].square.value > 2 * found[1].square.value)


def test_float32_as_users_run_it(strict):
    sde, dist = processes.vp(), MIXTURE()
    found = residual(KEY, exact(dist, sde), sde, draws(dist, 50), diagnostics.times(sde, 4))
    assert found.scaled.value.dtype == jnp.float32
    assert np.max(found.scaled.value) < 1e-8


def test_misuse_is_named():
    with pytest.raises(ValueError, match="residual: got probes=0; expected at least 1"):
        residual(KEY, lambda x, t: x, processes.vp(), jnp.zeros((3, 2)), jnp.asarray(TS), probes=0)
