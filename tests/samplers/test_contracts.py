"""Every row of the catalog is held to what a sampler promises: one table of rows x contracts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import PREDICTIONS, plane
from rows import ADAPTIVE, KEY, batched, off_centre, process, run, slow_start
from stats import slope

from sdejax import processes, truth
from sdejax.prediction import decode, encode
from sdejax.samplers.adaptive import gotta_go_fast
from sdejax.samplers.catalog import SAMPLERS
from sdejax.sde import coefficients

X = np.random.default_rng(0).normal(size=(8, 2))
ODES = [name for name, entry in SAMPLERS.items() if entry.deterministic]
FIRST_SAME_AS_LAST = {"tsit5", "tsit5_log_noise", "tsit5_log_data", "dopri5", "dopri8"}
UNGRIDDED = {
    "euler",
    *FIRST_SAME_AS_LAST,
    *ADAPTIVE,
}  # their orders: test_diffeq_coordinates, test_adaptive


@pytest.fixture(scope="module")
def accurate():
    """X taken from t = 0.9 to 0.05 under VP by an accurate solve, and then denoised."""
    with jax.enable_x64(True):
        sde = process()
        denoiser = truth.denoiser(plane(), sde)
        ts = jnp.asarray([0.9, 0.05])
        end = jax.jit(jax.vmap(lambda x: truth.reference(sde, denoiser, x, ts)[-1]))(jnp.asarray(X))
        return np.asarray(jax.vmap(lambda x: denoiser(x, ts[-1]).x0)(end))


@pytest.mark.parametrize("name", [name for name in ODES if name not in UNGRIDDED])
def test_the_order_is_the_one_claimed(name, accurate, x64):
    ns, errors = [48, 96, 192, 384, 768], []
    # One compilation serves all: steps of length zero follow, at least one (where UniPC corrects).
    most = ns[-1] + 1
    draw = jax.jit(jax.vmap(run(name, plane(), most), in_axes=(None, None, 0, None)))
    for n in ns:
        ts = np.pad(slow_start(n), (0, most - n), mode="edge")
        found, _ = draw(KEY, process(), jnp.asarray(X), jnp.asarray(ts))
        errors.append(np.sqrt(np.mean((found - accurate) ** 2)))
    assert errors[-1] > 1e-12, "at the rounding floor: the slope would say nothing"
    assert -slope(ns, errors) > SAMPLERS[name].order - 0.15, errors


@pytest.mark.parametrize("name", [name for name in ODES if name not in UNGRIDDED])
def test_every_example_converges_to_the_exact_flow_of_a_gaussian(name, x64):
    """x_t = alpha m + (alpha^2 C + sigma^2)^(1/2) z with one z at all times; then E[x0 | x_t]."""
    sde, dist, most = process(), off_centre(), 401
    first, last = (
        jax.vmap(lambda z, t=t: truth.gaussian_flow(dist, sde, z, t))(jnp.asarray(X))
        for t in (0.9, 0.05)
    )
    alpha, sigma = (float(k) for k in coefficients(sde, 0.05)[:2])
    mean, cov = np.asarray([1.2, -0.7]), np.asarray([[0.5, 0.2], [0.2, 0.15]])
    gain = alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(2))
    expected = mean + (np.asarray(last) - alpha * mean) @ gain.T
    draw = jax.jit(jax.vmap(run(name, dist, most), in_axes=(None, None, 0, None)))
    errors = []
    for n in (100, 400):
        ts = jnp.asarray(np.pad(slow_start(n), (0, most - n), mode="edge"))
        found, stats = draw(KEY, sde, first, ts)
        np.testing.assert_array_equal(stats.result, 0)
        assert found.dtype == jnp.float64
        errors.append(np.abs(found - expected).max())
    assert errors[1] < 1e-2
    assert errors[1] < max(1e-11, errors[0] * 4.0 ** (0.3 - SAMPLERS[name].order)), errors


SHOWN = {"ddim", "unipc_3", "heun", "seeds_2", "restart", "tsit5"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_is_its_examples_counts_and_compiles_once(name):
    draw, traces = batched(name)
    ts, x = jnp.asarray(slow_start(6), jnp.float32), jnp.asarray(X, jnp.float32)
    keys = jax.random.split(KEY, 8)
    # The batch lies on eight devices,
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    spread = jax.device_put(keys, rows), jax.device_put(x, rows)
    found, stats = draw(spread[0], process(), spread[1], ts)
    assert len(found.sharding.device_set) == 8
    assert found.dtype == jnp.float32
    assert found.shape == x.shape
    assert stats.nfe.shape == stats.result.shape == (8,)
    np.testing.assert_array_equal(stats.result, 0)
    # a single example on one, for some rows without jit; and every evaluation is counted.
    counted = []
    single = run(name, plane(), 6, counted)
    single, some_rows = (single, (3,)) if name in SHOWN else (jax.jit(single), (0, 3, 7))
    for i in some_rows:
        counted.clear()
        alone, cost = single(keys[i], process(), x[i], ts)
        jax.effects_barrier()
        assert len(counted) == cost.nfe
        if name != "gotta_go_fast":  # whose noise is a rough path: rounding of t changes it
            np.testing.assert_allclose(found[i], alone, atol=2e-5)
            assert stats.nfe[i] == cost.nfe
    if name not in ADAPTIVE:
        # The denoising step, for first-same-as-last solvers the first evaluation, restarts.
        extra = int(cost.nfe) - SAMPLERS[name].evaluations * 6
        assert extra == 1 + (name in FIRST_SAME_AS_LAST) + 8 * (name == "restart")
    # Another process of the same kind, other times: nothing is compiled.
    draw(spread[0], process(t_max=0.8), spread[1], 0.8 * ts)
    assert traces == [(8, 2)]


def some(names, slow):
    """Rows of which some are left to the slow suite."""
    return [pytest.param(n, marks=pytest.mark.slow) if slow(n) else n for n in names]


@pytest.mark.parametrize(
    "name", some(ODES, lambda name: name in FIRST_SAME_AS_LAST and name != "tsit5")
)
def test_the_derivative_is_that_of_the_map(name, x64):
    ts, direction = jnp.asarray(slow_start(6)), jnp.asarray([0.6, -0.8])
    one = jax.jit(lambda x: run(name, plane(), 6)(KEY, process(), x, ts)[0].sum())
    x, h = jnp.asarray(X[1]), 1e-5
    difference = (one(x + h * direction) - one(x - h * direction)) / (2 * h)
    if name in ADAPTIVE:  # a loop of unknown length: forward mode
        slope_found = jax.jvp(one, (x,), (direction,))[1]
    else:
        slope_found = jax.grad(one)(x) @ direction
    np.testing.assert_allclose(slope_found, difference, rtol=1e-6)


# Their step variable is infinite at sigma = 0, or the drift of a solver that evaluates there.
ABOVE_0 = {"tsit5_log_noise", "tsit5_log_data", "shark_data", *ADAPTIVE}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_grid_that_ends_at_sigma_0_is_finite_or_refused(name):
    sde = processes.RectifiedFlow(t_min=0.0, t_max=0.9)
    ts = jnp.linspace(0.9, 0.0, 7)
    if name in ABOVE_0:
        method = SAMPLERS[name].method(None if name in ADAPTIVE else 6, lambda sde, n: ts)
        with pytest.raises(ValueError, match="sigma"):
            method.require(sde, sde.t_max)
        return
    found, stats = jax.jit(run(name, plane(), 6))(KEY, sde, jnp.asarray(X[0], jnp.float32), ts)
    assert stats.result == 0
    assert np.all(np.isfinite(found))


# Rounding changes the length of an adaptive step, and so where a Brownian path is read, which is as
# rough as ever: after some ten attempts the answers are no nearer than the tolerance. So, of five.
BEGUN = {"gotta_go_fast": gotta_go_fast(max_steps=5)}


@pytest.mark.parametrize("name", some(SAMPLERS, lambda name: name not in SHOWN))
def test_every_prediction_type_gives_the_same_answer(name, x64):
    """The exact estimate, encoded as each type of output and decoded again."""
    ts, x = jnp.asarray(slow_start(6)), jnp.asarray(X[1])
    steps = None if name in ADAPTIVE else 6
    method = BEGUN.get(name) or SAMPLERS[name].method(steps, lambda sde, n: ts)

    def through(prediction, sde):
        exact = truth.denoiser(plane(), sde)

        def denoiser(x, t):
            c = coefficients(sde, t)
            return decode(prediction, c, x, encode(prediction, c, exact(x, t)))

        return method.run(KEY, sde, denoiser, x)[0]

    found = jax.jit(lambda sde: [through(p, sde) for p in PREDICTIONS.values()])(process())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9)
