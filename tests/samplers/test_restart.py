import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    KEY,
    VARIANCE,
    assert_counted,
    assert_float64_and_gradient,
    assert_pure,
    assert_skewed_moments,
    gaussian_denoiser,
)
from stats import slope

from sdejax import grids, processes
from sdejax.samplers.levels import noise_levels
from sdejax.samplers.restart import Interval, _rows, restart
from sdejax.sde import log_snr

SLOW = pytest.mark.slow


def plan(levels, jumps, rho=7.0):
    """(from, raised to, down to) of every step: the paper's algorithm 2 as nested loops."""
    at = {int(np.argmin(np.abs(levels - low))): (k, n, high) for k, n, low, high in jumps}
    steps = []
    for i in range(len(levels) - 1):
        steps.append((levels[i], levels[i], levels[i + 1]))
        k, n, high = at.get(i + 1, (0, 1, 1.0))
        for _ in range(k):
            low = levels[i + 1]
            down = [
                (high ** (1 / rho) + j / n * (low ** (1 / rho) - high ** (1 / rho))) ** rho
                for j in range(n + 1)
            ]
            steps.append((low, high, down[1]))
            steps += [(down[j], down[j], down[j + 1]) for j in range(1, n)]
    return np.asarray(steps)


@pytest.mark.parametrize("make", [processes.edm, processes.vp])
def test_the_steps_are_those_of_the_papers_algorithm(make, x64):
    """Two intervals given from low to high, one of them at the last level of the grid."""
    sde = make()
    ts = grids.karras(sde, 17)
    levels = np.asarray(noise_levels(sde, ts))
    low = float(levels[-1])
    jumps = [(2, 3, low, 0.02), (3, 2, 0.06, 0.30), (1, 4, 19.35, 40.79)]
    ordered = [Interval(*jump) for jump in jumps[::-1]]
    rows = jax.jit(lambda sde, ts: _rows(sde, ts, ordered, 1.0, 7.0))(sde, ts)
    expected = plan(levels, jumps)
    assert len(expected) == 17 + 6 + 6 + 4

    def level(ts):
        return np.exp(-0.5 * jax.vmap(lambda t: log_snr(sde, t))(jnp.asarray(ts)))

    np.testing.assert_allclose(level(rows.raised), expected[:, 1], rtol=1e-9)
    np.testing.assert_allclose(rows.sigma / rows.alpha, expected[:, 2], rtol=1e-9)
    # In x/alpha the noise put in is what the forward process adds, and only in the jumps.
    alpha = jax.vmap(lambda t: jnp.asarray(sde.alpha(t)))(rows.raised)
    added = np.sqrt(expected[:, 1] ** 2 - expected[:, 0] ** 2)
    np.testing.assert_allclose(rows.fresh / alpha, added, rtol=1e-9)
    assert np.count_nonzero(rows.fresh) == 2 + 3 + 1


def test_a_jump_forgets_as_the_exact_flow_does_with_order_2(x64):
    """Two runs with the same noise stay in proportion: on N(m, v) the flow from r to r' scales a
    difference of x/alpha by sqrt((v + r'^2)/(v + r^2)), and a jump leaves it as it is."""
    sde, v = processes.vp(t_min=0.05, t_max=0.9), VARIANCE
    denoiser = gaussian_denoiser(sde)
    x = jnp.asarray([[0.3], [1.3]])
    ns, errors = [8, 16, 32, 64], []
    for n in ns:
        # The lowest level of the grid is the interval's, whatever the number of steps.
        first, last = (
            float(noise_levels(sde, jnp.asarray([t]))[0]) for t in (sde.t_max, sde.t_min)
        )
        method = restart([(3, n, last, 2.0)], 2 * n, denoise=False)
        out, stats = jax.jit(jax.vmap(lambda x, run=method.run: run(KEY, sde, denoiser, x)))(x)
        scale = np.sqrt((v + last**2) / (v + first**2)) * ((v + last**2) / (v + 2.0**2)) ** 1.5
        scale = scale * sde.alpha(sde.t_min) / sde.alpha(sde.t_max)
        errors.append(abs(float(out[1, 0] - out[0, 0]) / scale - 1))
        assert np.all(stats.nfe == 2 * (2 * n + 3 * n))
    assert -2.3 < slope(ns, errors) < -1.85, errors
    assert errors[-1] < 1e-3


CASES = {
    "vp": processes.vp(t_min=0.01),
    "edm": pytest.param(processes.edm(0.05, 20.0), marks=SLOW),
    "ve": pytest.param(processes.ve(0.05, 10.0), marks=SLOW),
}


@pytest.mark.parametrize("sde", CASES.values(), ids=CASES)
def test_samples_have_the_moments_of_the_mixture(sde):
    method = restart([(2, 20, 0.2, 0.6), (3, 20, 0.6, 2.0)], 80, denoise=False)
    method.require(sde, sde.t_max)
    assert np.all(assert_skewed_moments(method.run, sde).nfe == 2 * 180)


def test_evaluations_are_the_papers():
    """N_main = 18, {N_Restart = 3, K = 2, t_min = 0.06, t_max = 0.3}: 35 + 2 x 2 x 2 = 43."""
    method = restart([(2, 2, 0.06, 0.3)], 17)
    sde = processes.edm()
    method.require(sde, sde.t_max)
    assert_counted(method.run, sde, 43)


def test_a_run_is_pure(strict):
    assert_pure(restart([(2, 2, 0.06, 0.3)], 6).run, processes.vp())


def test_a_run_has_float64_and_gradients(x64):
    method = restart([(1, 2, 0.06, 0.3)], 5)
    assert_float64_and_gradient(method.run, lambda beta_max: processes.VP(beta_max=beta_max))


def test_bad_arguments_are_refused():
    for interval in ((0, 2, 0.1, 0.3), (1, 0, 0.1, 0.3), (1, 2, 0.3, 0.1), (1, 2, 0.0, 0.1)):
        with pytest.raises(ValueError, match=r"restart: got the interval .*; expected"):
            restart([interval])
    with pytest.raises(ValueError, match=r"restart: got noise=0\.0; expected a positive number"):
        restart([], noise=0.0)
    with pytest.raises(ValueError, match="steps: got 0"):
        restart([], 0)
    sde = processes.edm(0.01, 10.0)
    with pytest.raises(ValueError, match="expected low < high <= 10"):
        restart([(1, 2, 1.0, 40.0)]).require(sde, sde.t_max)
    with pytest.raises(ValueError, match="use more steps or another interval"):
        restart([(1, 2, 0.5, 0.6)], 2).require(sde, sde.t_max)
    sde = processes.rectified_flow()
    with pytest.raises(ValueError, match=r"restart: got t_max=.* alpha = 0"):
        restart([]).require(sde, sde.t_max)
