import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PUBLISHED, skewed

from sdejax import grids, processes, truth
from sdejax.prediction import Estimate
from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama, reverse_diffusion
from sdejax.samplers.base import Stats, check, in_float64, on_grid, sample

KEY = jax.random.key(0)
SDE = processes.vp()


def slow(sampler):
    return pytest.param(sampler, marks=pytest.mark.slow)


OTHERS = [slow(reverse_diffusion()), slow(euler_maruyama())]


def gaussian_denoiser(sde):
    """The posterior mean for N(1, 4) in one line, so that compiling is quick."""

    def denoiser(x, t):
        alpha, sigma = jnp.asarray(sde.alpha(t), x.dtype), jnp.asarray(sde.sigma(t), x.dtype)
        r = (x - alpha) / (4 * alpha**2 + sigma**2)
        return Estimate(1 + 4 * alpha * r, sigma * r)

    return denoiser


@pytest.mark.parametrize("sampler", [ancestral(), *OTHERS])
@pytest.mark.parametrize("denoise", [True, False])
def test_nfe_is_what_a_counting_callback_counts(sampler, denoise):
    calls = []

    def denoiser(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return gaussian_denoiser(SDE)(x, t)

    ts = grids.uniform(SDE, 7)
    _, stats = sample(KEY, sampler, SDE, denoiser, jnp.ones((2,)), ts, denoise=denoise)
    jax.effects_barrier()
    assert stats.nfe == len(calls) == 7 + denoise
    np.testing.assert_allclose(calls, ts[: len(calls)], rtol=1e-6)


def test_a_run_is_the_loop_over_its_steps(strict):
    """Step i draws from fold_in(key, i); the last evaluation returns x0."""
    sampler, denoiser, x = ancestral(), gaussian_denoiser(SDE), jnp.asarray([0.3, -0.2])
    ts = grids.uniform(SDE, 5)
    rows = in_float64(sampler.prepare, jnp.float32, SDE, ts)
    states = [x]
    for i in range(5):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], rows)
        x0, eps = denoiser(states[-1], ts[i])
        z = jax.random.normal(jax.random.fold_in(KEY, i), (2,))
        states.append(row.a * states[-1] + row.b * x0 + row.c * eps + row.d * z)
    asked = jnp.asarray([ts[2], 0.5 * (ts[2] + ts[3]), ts[5], 2.0])
    out, stats = sample(KEY, sampler, SDE, denoiser, x, ts, save_at=asked, denoise=False)
    np.testing.assert_allclose(out, states[-1], rtol=1e-5)
    # The state of the last grid time not below the asked one; before the start, the start.
    kept = [states[2], states[2], states[5], states[0]]
    np.testing.assert_allclose(stats.saved, np.stack(kept), rtol=1e-5)
    last, _ = sample(KEY, sampler, SDE, denoiser, x, ts)
    np.testing.assert_allclose(last, denoiser(states[-1], ts[-1]).x0, rtol=1e-5)


def test_rows_are_computed_in_float64_from_the_float32_grid():
    """Also under jit with traced fields; the default precision stays as it was."""
    p = PUBLISHED["vp"]
    ts = grids.uniform(SDE, 1000)
    rows = jax.jit(lambda sde, ts: in_float64(reverse_diffusion().prepare, jnp.float32, sde, ts))(
        SDE, ts
    )
    exact = np.asarray(ts, np.longdouble)
    k = p.alpha(exact[:-1]) / p.alpha(exact[1:])
    variance = p.sigma(exact[:-1]) ** 2 - (k * p.sigma(exact[1:])) ** 2
    # In float32 alone 1 - k^2 would lose four digits; 0.1 and 20 are rounded to float32 here.
    np.testing.assert_allclose(rows.d, np.sqrt(variance).astype(float), rtol=2e-7)
    assert rows.d.dtype == jnp.float32
    assert jnp.zeros(()).dtype == jnp.float32


def test_memory_does_not_grow_with_the_number_of_steps():
    def temporary(n):
        def run(x):
            return sample(KEY, ancestral(), SDE, gaussian_denoiser(SDE), x, grids.uniform(SDE, n))

        compiled = jax.jit(run).lower(jnp.zeros((64, 64))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary(10), temporary(1000)
    # What grows are the rows, some ten float64 scalars a step; an image has 16 KiB.
    assert many - few < 200 * 990
    assert many < few + 990 * 64 * 64 * 4 / 10


def test_jit_and_vmap_change_nothing():
    denoiser, ts = gaussian_denoiser(SDE), grids.uniform(SDE, 6)
    keys, x = jax.random.split(KEY, 3), jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    x = x.astype(jnp.float32)

    def run(key, x):
        return sample(key, ancestral(), SDE, denoiser, x, ts)[0]

    loop = np.stack([run(key, row) for key, row in zip(keys, x, strict=True)])
    np.testing.assert_allclose(jax.vmap(run)(keys, x), loop, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(keys, x), loop, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", [ddim(), *OTHERS, slow(ancestral())])
def test_gradients_flow_through_a_run(sampler, x64):
    """To a field of the process, for the same noise, against a central difference."""
    dist = truth.mixture(*(jnp.asarray(part, jnp.float64) for part in skewed()))

    @jax.jit
    def end(beta_max):
        sde = processes.VP(beta_max=beta_max)
        ts = grids.uniform(sde, 8)
        return sample(KEY, sampler, sde, truth.denoiser(dist, sde), jnp.ones((1,)), ts)[0][0]

    gradient = jax.jit(jax.grad(end))(20.0)
    expected = (end(20.0 + 1e-4) - end(20.0 - 1e-4)) / 2e-4
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_gradients_flow_in_float32_too():
    dist = truth.mixture(*map(jnp.asarray, skewed()))

    def end(beta_max):
        sde = processes.VP(beta_max=beta_max)
        ts = grids.uniform(sde, 8)
        return sample(KEY, ddim(), sde, truth.denoiser(dist, sde), jnp.ones((1,)), ts)[0][0]

    end = jax.jit(end)
    gradient = jax.jit(jax.grad(end))(20.0)
    np.testing.assert_allclose(gradient, (end(20.5) - end(19.5)), rtol=2e-2)


def test_a_nan_is_reported_as_data_and_raised_by_check():
    def denoiser(x, t):
        return Estimate(jnp.where(t < 0.5, jnp.nan, x), x)

    x, stats = jax.vmap(lambda x: sample(KEY, ddim(), SDE, denoiser, x, grids.uniform(SDE, 4)))(
        jnp.ones((3, 2))
    )
    assert np.all(np.isnan(x))
    np.testing.assert_array_equal(stats.result, 2)
    with pytest.raises(FloatingPointError, match=r"3 of 3 examples met a value that is not finite"):
        check(stats)


def test_check_names_the_failures():
    nfe = jnp.zeros((4,), jnp.int32)
    check(Stats(nfe, jnp.zeros((4,), jnp.int32)))
    with pytest.raises(
        FloatingPointError, match=r"2 of 4 examples ran out of steps.*examples 1, 2\)"
    ):
        check(Stats(nfe, jnp.asarray([0, 1, 1, 0], jnp.int32)))
    many = Stats(jnp.zeros((20,), jnp.int32), jnp.full((20,), 1, jnp.int32).at[3].set(2))
    expected = (
        r"19 of 20 .*\(examples 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, \.\.\.\); 1 of 20 .*\(example 3\)$"
    )
    with pytest.raises(FloatingPointError, match=expected):
        check(many)
    with pytest.raises(FloatingPointError, match="1 of 1 examples"):
        check(Stats(nfe[0], jnp.asarray(1, jnp.int32)))


def test_a_grid_that_does_not_fall_is_refused():
    method = on_grid(ddim(), 3, lambda sde, n: jnp.asarray([1.0, 0.5, 0.6, 0.1]))
    with pytest.raises(ValueError, match=r"got 0\.5 before 0\.6.* at index 1; expected decreasing"):
        method.require(processes.vp(), 1.0)


def test_times_out_of_order_are_refused_by_a_bare_sample():
    sde, x = processes.vp(), jnp.zeros(2)
    denoiser = truth.denoiser(truth.gaussian(jnp.zeros(2), jnp.eye(2)), sde)
    for ts in ([0.1, 0.5, 0.9], [0.9, 0.5, 0.5, 0.1]):
        with pytest.raises(ValueError, match="expected decreasing times"):
            sample(jax.random.key(0), ddim(), sde, denoiser, x, jnp.asarray(ts))
