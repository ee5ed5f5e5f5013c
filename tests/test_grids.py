import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES

from sdejax import grids, processes
from sdejax.samplers.base import in_float64

GRIDS = {
    "uniform": (grids.uniform, lambda sde, t: t),
    "quadratic": (grids.quadratic, lambda sde, t: np.sqrt(t)),
    "uniform_log_snr": (
        grids.uniform_log_snr,
        lambda sde, t: np.log(jax.vmap(sde.sigma)(t) / jax.vmap(sde.alpha)(t)),
    ),
    "karras": (
        grids.karras,
        lambda sde, t: (jax.vmap(sde.sigma)(t) / jax.vmap(sde.alpha)(t)) ** (1 / 7),
    ),
}
CASES = [
    ("uniform", "vp"),
    ("quadratic", "rectified_flow"),
    ("uniform_log_snr", "vp"),
    ("uniform_log_snr", "cosine"),
    ("karras", "edm"),
    ("karras", "ve"),
]
OTHERS = [
    pytest.param(grid, name, marks=pytest.mark.slow)
    for grid in GRIDS
    for name in PROCESSES
    if (grid, name) not in CASES
    and not (name == "rectified_flow" and grid in ("uniform_log_snr", "karras"))
]


@pytest.mark.parametrize(("grid", "name"), CASES + OTHERS)
def test_a_grid_is_even_in_its_own_variable(grid, name, x64):
    sde, (make, variable) = PROCESSES[name](), GRIDS[grid]
    ts = jax.jit(make, static_argnums=1)(sde, 18)
    assert ts.shape == (19,)
    assert (ts[0], ts[-1]) == (sde.t_max, sde.t_min)
    assert np.all(np.diff(ts) < 0)
    gaps = np.diff(np.asarray(variable(sde, ts)))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-8)


@pytest.mark.parametrize(("grid", "name"), CASES + OTHERS)
def test_grids_stay_strictly_decreasing_in_float32(grid, name):
    """As samplers use them: made in float64 and rounded, here with a thousand steps."""
    sde = PROCESSES[name]()
    make = jax.jit(lambda sde: in_float64(lambda s: GRIDS[grid][0](s, 1000), jnp.float32, sde))
    ts = np.asarray(make(sde))
    assert ts.dtype == np.float32
    assert (ts[0], ts[-1]) == (np.float32(sde.t_max), np.float32(sde.t_min))
    assert np.all(np.diff(ts) < 0)


def test_karras_is_the_papers_formula_for_edm(x64):
    i, n, rho = np.arange(19), 18, 7.0
    expected = (80 ** (1 / rho) + i / n * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    np.testing.assert_allclose(grids.karras(processes.edm(), n), expected, rtol=1e-12)
    other = grids.karras(processes.edm(), n, rho=3.0)
    assert abs(other[9] - expected[9]) > 1.0


@pytest.mark.parametrize("grid", [grids.uniform_log_snr, grids.karras])
def test_an_infinite_log_snr_is_refused_by_name(grid):
    with pytest.raises(ValueError, match=rf"{grid.__name__}: got t_max=1.0, where alpha = 0"):
        grid(processes.rectified_flow(), 10)
    assert np.all(np.isfinite(grid(processes.rectified_flow(t_max=0.999), 10)))


@pytest.mark.parametrize("grid", [grids.uniform_log_snr, grids.karras])
def test_grids_can_be_differentiated(grid, x64):
    @jax.jit
    def middle(beta_max):
        return grid(processes.VP(beta_max=beta_max), 4)[2]

    slope = jax.jit(jax.grad(middle))(20.0)
    np.testing.assert_allclose(slope, (middle(20.001) - middle(19.999)) / 0.002, rtol=1e-6)
