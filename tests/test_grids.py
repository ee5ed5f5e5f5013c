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


def levels(grid, n, **options):
    """The levels of 1000 that a grid visits, on VP, where level j is at t = j/1000."""
    ts = np.asarray(grid(**options)(processes.vp(), n))
    np.testing.assert_allclose(ts * 1000, np.round(ts * 1000), atol=1e-9)
    return np.round(ts * 1000).astype(int).tolist()


def test_discrete_grids_are_the_table_of_lin_et_al(x64):
    """arXiv:2305.08891, table 2: T = 1000 and S = 10 levels to visit, nine steps and the last."""
    linspace = [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]
    assert levels(grids.discrete, 9) == linspace
    assert levels(grids.discrete_trailing, 9) == list(range(1000, 0, -100))
    assert levels(grids.discrete_leading, 9) == list(range(901, 0, -100))
    # S = 25 as printed there: 1, 43, 84, ..., 958, 1000 and 40, 80, ..., 1000 and 1, 41, ..., 961.
    assert levels(grids.discrete, 24)[::-1][:3] == [1, 43, 84]
    assert levels(grids.discrete_trailing, 24)[-2:] == [80, 40]
    assert levels(grids.discrete_leading, 24)[0] == 961
    # S = 30, where the stride is floor(1000/30) = 33.
    assert levels(grids.discrete_leading, 29) == list(range(958, 0, -33))


DISCRETE = [grids.discrete, grids.discrete_trailing, grids.discrete_leading]


@pytest.mark.parametrize("grid", DISCRETE)
def test_discrete_grids_never_repeat_a_level(grid, x64):
    counts = (1, 7, 33, 48, 49)
    ts = [np.asarray(grid(50)(processes.edm(), n)) for n in counts]
    assert all(np.all(np.diff(t) < 0) and len(t) == n + 1 for n, t in zip(counts, ts, strict=True))
    every = np.linspace(80.0, 0.002, 50)
    np.testing.assert_allclose(ts[-1], every, rtol=1e-12)
    assert (ts[-1][0], ts[-1][-1]) == (80.0, 0.002)
    assert all(np.abs(t[:, None] - every[None]).min(axis=1).max() < 1e-12 for t in ts)
    with pytest.raises(ValueError, match="got steps=50 for 50 levels; expected at most 49"):
        grid(50)(processes.edm(), 50)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_on_the_linear_path_is_sd3s(shift, x64):
    """Esser et al. 2024, eq. 23, where the path runs from the noise alone to (almost) the data."""
    sde = processes.rectified_flow(t_min=1e-12)
    t = np.linspace(1.0, 1e-12, 11)
    found = np.asarray(grids.shifted(grids.uniform, shift)(sde, 10))
    np.testing.assert_allclose(found[:-1], (shift * t / (1 + (shift - 1) * t))[:-1], rtol=1e-9)
    assert (found[0], found[-1]) == (1.0, 1e-12)


@pytest.mark.parametrize("name", ["vp", "edm", "cosine"])
def test_a_shift_keeps_the_ends_and_lowers_the_log_snr_by_its_double_log(name, x64):
    sde = PROCESSES[name]()
    ratio = jax.vmap(lambda t: sde.sigma(t) / sde.alpha(t))
    plain, moved = (
        np.asarray(jax.jit(g, static_argnums=1)(sde, 400))
        for g in (grids.karras, grids.shifted(grids.karras, 2.0))
    )
    assert (moved[0], moved[-1]) == (sde.t_max, sde.t_min)
    assert np.all(np.diff(moved) < 0)
    before, after = np.asarray(ratio(plain)), np.asarray(ratio(moved))
    middle = (before > 40 * before[-1]) & (before < before[0] / 40)
    assert middle.sum() > 20
    np.testing.assert_allclose(after[middle] / before[middle], 2.0, rtol=0.1)
    back = np.asarray(grids.shifted(grids.shifted(grids.karras, 2.0), 0.5)(sde, 400))
    np.testing.assert_allclose(back, plain, rtol=1e-9)


def test_a_shift_moves_ends_that_are_not_those_of_the_process(x64):
    sde = processes.rectified_flow(t_min=1e-12)
    found = grids.shifted(grids.discrete_trailing(1000), 3.0)(sde, 3)
    np.testing.assert_allclose(found, [1.0, 9 / 10, 3 / 4, 1 / 2], atol=2e-3)
    given = grids.shifted(grids.from_times(np.asarray([0.8, 0.4])), 3.0)(sde, 1)
    np.testing.assert_allclose(given, [2.4 / 2.6, 1.2 / 1.8], rtol=1e-9)
    with pytest.raises(ValueError, match=r"shifted: got shift=0.0; expected a finite number > 0"):
        grids.shifted(grids.uniform, 0.0)


@pytest.mark.parametrize("name", PROCESSES)
def test_shifted_and_discrete_grids_decrease_in_float32(name):
    sde = PROCESSES[name]()
    for grid in (grids.shifted(grids.uniform, 3.0), grids.discrete(), grids.discrete_trailing()):
        make = jax.jit(lambda s, g=grid: in_float64(lambda s: g(s, 200), jnp.float32, s))
        ts = np.asarray(make(sde))
        assert ts.dtype == np.float32
        assert ts[0] == np.float32(sde.t_max)
        assert np.all(np.diff(ts) < 0)


def test_a_shift_can_be_differentiated(x64):
    @jax.jit
    def middle(beta_max, shift):
        grid = grids.shifted(grids.uniform_log_snr, 2.0)
        return grid(processes.VP(beta_max=beta_max), 4)[2] * shift

    slope = jax.jit(jax.grad(middle))(20.0, 1.0)
    numeric = (middle(20.001, 1.0) - middle(19.999, 1.0)) / 0.002
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_times_of_ones_own_are_a_grid():
    sde = processes.cosine()  # 0.999 and 1e-3 are no numbers of float32
    for dtype in (np.float32, np.float64):
        grid = grids.from_times(np.asarray([0.999, 0.5, 1e-3], dtype))
        np.testing.assert_allclose(grid(sde, 2), [0.999, 0.5, 1e-3], rtol=1e-6)
    exact = in_float64(lambda s: grid(s, 2), jnp.float32, sde)
    np.testing.assert_array_equal(exact, np.asarray([0.999, 0.5, 1e-3], np.float32))
    learned = jax.jit(lambda ts: grids.from_times(ts)(sde, 2))(jnp.asarray([0.9, 0.5, 0.1]))
    np.testing.assert_allclose(learned, [0.9, 0.5, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("ts", "steps", "message"),
    [
        ([0.9, 0.5, 0.5, 0.1], 3, r"got 0.5 before 0.5 at index 1; expected decreasing"),
        ([0.1, 0.9], 1, r"got 0.1 before 0.9 at index 0"),
        ([0.9, np.nan, 0.1], 2, r"got 0.9 before nan at index 0"),
        ([0.9], 0, r"got an array of shape \(1,\)"),
        ([[0.9, 0.1]], 1, r"got an array of shape \(1, 2\)"),
        ([0.9, 0.1], 2, r"got steps=2 for 2 times; expected 1"),
        (
            [1.1, 0.1],
            1,
            r"times from 1.1 to 0.1; expected them in \[t_min, t_max\] = \[0.001, 1.0\]",
        ),
        ([0.9, 0.0], 1, r"times from 0.9 to 0.0; expected .* of VP"),
    ],
)
def test_times_that_are_no_grid_are_refused(ts, steps, message):
    with pytest.raises(ValueError, match=message):
        grids.from_times(np.asarray(ts))(processes.vp(), steps)
