from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    KEY,
    MEAN,
    VARIANCE,
    assert_counted,
    assert_float64_and_gradient,
    assert_pure,
    assert_skewed_moments,
    gaussian_denoiser,
)
from oracles import PROCESSES, PUBLISHED
from stats import slope

from sdejax import grids, processes
from sdejax.prediction import Estimate
from sdejax.samplers.ancestral import ddim, reverse_diffusion
from sdejax.samplers.base import Sampler, on_grid, sample
from sdejax.samplers.corrector import langevin_step, predictor_corrector

SLOW = pytest.mark.slow
REST = Sampler(  # a predictor that only rescales, so that the corrector is seen alone
    lambda sde, ts: jax.vmap(sde.alpha)(ts)[1:] / jax.vmap(sde.alpha)(ts)[:-1],
    lambda x: x,
    lambda denoiser, key, x, row: row * x,
    lambda x: x,
    evaluations=0,
)


def rows_of(sde, ts, **options):
    rows = predictor_corrector(REST, **options).prepare(sde, jnp.asarray(ts))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(len(ts) - 1)]


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_a_step_is_the_papers(name, x64):
    """Algorithms 4 and 5 in scores: e = 2 a (snr |z|/|g|)^2, x + e g + sqrt(2 e) z, with a = 1 for
    VE and a = 1 - beta_i for VP."""
    sde, p = PROCESSES[name](), PUBLISHED[name]
    ts = np.asarray([0.8, 0.75])
    row = rows_of(sde, ts)[0]
    sigma = float(p.sigma(np.longdouble(0.75)))
    integral = 0.1 * ts + 19.9 * ts**2 / 2
    a = {"ve": 1.0, "vp": 1.0 - (1.0 - np.exp(integral[1] - integral[0]))}[name]
    x, g = np.random.default_rng(0).normal(size=(2, 30, 3))
    z = np.asarray(jax.random.normal(KEY, (30, 3), jnp.float64))
    for small in (1.0, 0.01):
        score = small * g
        e = 2 * a * (0.16 * np.linalg.norm(z) / np.linalg.norm(score)) ** 2
        assert (e < sigma**2) == (small == 1.0)
        e = min(e, sigma**2)  # ours: no step overshoots in directions of pure noise
        estimate = Estimate(jnp.asarray(x), jnp.asarray(-sigma * score))
        step = langevin_step(lambda x, t, pair=estimate: pair, KEY, jnp.asarray(x), row, 0.16, 0.0)
        np.testing.assert_allclose(step, x + e * score + np.sqrt(2 * e) * z, rtol=1e-10)


def test_a_correction_keeps_p_t_to_first_order(x64):
    """On N(m, v) a step of fixed size is x' - m = a (x - m) + b z: read off a and b, and the change
    of the variance, a^2 w + b^2 - w, is of second order in the step size."""
    sde = processes.vp()
    row = rows_of(sde, [0.31, 0.3])[0]
    alpha, sigma = (float(k(0.3)) for k in (sde.alpha, sde.sigma))
    denoiser, w = gaussian_denoiser(sde), VARIANCE * alpha**2 + sigma**2
    z = float(jax.random.normal(KEY, (1,), jnp.float64)[0])
    sizes, changes = [], []
    for snr in (0.02, 0.04, 0.08, 0.16, 0.32):
        at = [
            float(langevin_step(denoiser, KEY, jnp.asarray([x]), row, snr, 1e12)[0])
            for x in (alpha * MEAN, alpha * MEAN + 1.0)
        ]
        a, b = at[1] - at[0], (at[0] - alpha * MEAN) / z
        sizes.append(snr**2)
        changes.append(a**2 * w + b**2 - w)
    assert 1.95 < slope(sizes, changes) < 2.05, changes
    assert 0 < changes[0] < 1e-5 * w


def variance_error(sampler, steps, sde, dimension=64, count=512):
    """Relative error of the variance at the end on N(m, v), with a prior that is exact."""
    denoiser = gaussian_denoiser(sde)
    ts = grids.uniform(sde, steps)
    first, last = ((float(sde.alpha(t)), float(sde.sigma(t))) for t in (sde.t_max, sde.t_min))

    def draw(key):
        start, key = jax.random.split(key)
        x = first[0] * MEAN + np.sqrt(VARIANCE * first[0] ** 2 + first[1] ** 2) * jax.random.normal(
            start, (dimension,)
        )
        return sample(key, sampler, sde, denoiser, x, ts, denoise=False)[0]

    x = jax.jit(jax.vmap(draw))(jax.random.split(KEY, count))
    return float(np.var(x) / (VARIANCE * last[0] ** 2 + last[1] ** 2) - 1)


def test_it_mends_a_poor_predictor():
    """One whose every step loses 2 % of x: the corrections bring back what a step loses."""
    sde, exact = processes.vp(t_min=0.2), ddim()
    poor = exact._replace(step=lambda d, key, x, row: 0.98 * exact.step(d, key, x, row))
    alone = variance_error(poor, 20, sde)
    mended = variance_error(predictor_corrector(poor, snr=0.25, corrections=3), 20, sde)
    assert alone < -0.4
    assert abs(mended) < 0.2 * abs(alone), (alone, mended)


CASES = {
    "ve": processes.ve(0.05, 10.0),
    "vp": pytest.param(processes.vp(t_min=0.01), marks=SLOW),
    "edm": pytest.param(processes.edm(0.05, 20.0), marks=SLOW),
}


@pytest.mark.parametrize("sde", CASES.values(), ids=CASES)
def test_samples_have_the_moments_of_the_mixture(sde):
    """On the line, where one example's norm says little: shrunken step sizes are near enough."""
    grid = grids.uniform_log_snr
    method = on_grid(predictor_corrector(reverse_diffusion(), 0.1), 250, grid, denoise=False)
    assert np.all(assert_skewed_moments(method.run, sde).nfe == 500)


class Memory(NamedTuple):
    x: jax.Array
    last: jax.Array
    count: jax.Array


def with_memory(final=lambda state: state.x):
    """DDIM that remembers its last x and counts its steps."""
    inner = ddim()
    return inner._replace(
        init=lambda x: Memory(x, jnp.zeros_like(x), jnp.zeros((), jnp.int32)),
        step=lambda d, key, m, row: Memory(inner.step(d, key, m.x, row), m.x, m.count + 1),
        final=final,
    )


def test_a_predictor_with_memory_keeps_it():
    sde, ts = processes.vp(), grids.uniform(processes.vp(), 4)
    runs = [
        sample(KEY, predictor_corrector(s), sde, gaussian_denoiser(sde), jnp.ones((3,)), ts)[0]
        for s in (ddim(), with_memory())
    ]
    np.testing.assert_array_equal(*runs)
    sampler = predictor_corrector(with_memory(lambda state: 2.0 * state.x))
    with pytest.raises(ValueError, match=r"whose final\(state\) is not a leaf of its state"):
        sample(KEY, sampler, sde, gaussian_denoiser(sde), jnp.ones((3,)), ts)


def test_it_is_finite_at_score_0_and_at_sigma_0():
    """Also with a denoiser whose eps is NaN at sigma = 0, where the corrector does nothing."""
    sde = processes.edm(0.01, 5.0)
    ts = jnp.asarray([5.0, 1.0, 0.0])

    def denoiser(x, t):
        return Estimate(x, jnp.where(t == 0, jnp.nan, jnp.zeros_like(x)))

    for shrink in (0.0, 64.0):
        sampler = predictor_corrector(ddim(), shrink=shrink)
        _, stats = sample(KEY, sampler, sde, denoiser, jnp.ones((3,)), ts, denoise=False)
        assert stats.result == 0
    inner = gaussian_denoiser(sde)
    out, _ = sample(KEY, sampler, sde, inner, jnp.ones((3,)), ts, denoise=False)
    before, _ = sample(KEY, sampler, sde, inner, jnp.ones((3,)), ts[:2], denoise=False)
    np.testing.assert_allclose(out, inner(before, ts[1]).x0, rtol=1e-6)


def test_evaluations_are_the_predictors_and_the_corrections():
    method = on_grid(predictor_corrector(reverse_diffusion(), corrections=2), 4)
    calls = assert_counted(method.run, processes.vp(), 4 * 3 + 1)
    ts = np.asarray(grids.uniform(processes.vp(), 4))
    np.testing.assert_allclose(sorted(set(calls)), ts[::-1], rtol=1e-6)


def test_a_run_is_pure(strict):
    """The step size is the example's own."""
    assert_pure(on_grid(predictor_corrector(reverse_diffusion()), 6).run, processes.ve())


def test_a_run_has_float64_and_gradients(x64):
    method = on_grid(predictor_corrector(reverse_diffusion()), 6)
    assert_float64_and_gradient(method.run, lambda beta_max: processes.VP(beta_max=beta_max))


def test_bad_arguments_are_refused():
    for options, message in (
        ({"snr": 0.0}, "got snr=0.0; expected a positive number"),
        ({"corrections": 0}, "got corrections=0; expected at least 1, or use the predictor"),
        ({"shrink": -1.0}, "got shrink=-1.0; expected a finite number of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor_corrector(ddim(), **options)


def test_the_predictors_demands_are_kept():
    def require(sde, t):
        raise ValueError("not here")

    with pytest.raises(ValueError, match="not here"):
        predictor_corrector(ddim()._replace(require=require)).require(processes.vp(), 1.0)
