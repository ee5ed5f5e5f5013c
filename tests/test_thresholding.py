"""Keeping x0 in the range of the data: the pair still decomposes x_t, and nothing is hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS

from sdejax import prediction, processes
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_denoiser, make_model, no_scaling
from sdejax.prediction import Estimate
from sdejax.samplers import ddim, make_sampler, on_grid
from sdejax.samplers.base import NOT_FINITE
from sdejax.sde import coefficients
from sdejax.thresholding import clipped, thresholded

T = jnp.float32(0.3)


def test_clipping_keeps_the_range_and_the_decomposition():
    sde = processes.vp()
    c = coefficients(sde, T)

    def network(params, x, t, cond):
        return jnp.zeros_like(x)  # eps = 0, so x0 = x / alpha

    model = make_model(network, PREDICTIONS["eps"], batched=False)
    denoiser = clipped(-1.0, 1.0)(make_denoiser(model, None, sde), sde)
    x = jnp.asarray([3.0, -0.2, -5.0])
    out = denoiser(x, T)
    np.testing.assert_allclose(out.x0, np.clip(x / c.alpha, -1, 1), rtol=1e-6)
    np.testing.assert_allclose(c.alpha * out.x0 + c.sigma * out.eps, x, rtol=1e-6)
    with pytest.raises(ValueError, match=r"clipped: got low=1.0, high=-1.0; expected low < high"):
        clipped(1.0, -1.0)


def test_thresholding_shrinks_an_example_by_its_own_quantile():
    """For data in [-2, 6]: 2 + 4 u, u clipped at the 3/4 quantile 3 of |u| and divided by it."""
    u = np.asarray([0.5, -2.0, 3.0, 9.0, -1.0])
    x0 = jnp.asarray(2.0 + 4.0 * u)
    sde = processes.vp()
    c = coefficients(sde, T)
    x = c.alpha * x0 + c.sigma * 0.3
    plain = lambda x, t: Estimate(x0, (x - c.alpha * x0) / c.sigma)  # noqa: E731
    out = thresholded(0.75, -2.0, 6.0)(plain, sde)(x, T)
    np.testing.assert_allclose(out.x0, 2.0 + 4.0 * np.clip(u, -3, 3) / 3, rtol=1e-5)
    np.testing.assert_allclose(c.alpha * out.x0 + c.sigma * out.eps, x, rtol=1e-5)
    # Nothing is enlarged: where the quantile is inside, the range of the data is the bound.
    x0 = jnp.asarray([2.4, 1.6, 2.0, 2.2, 7.0])
    out = thresholded(0.5, -2.0, 6.0)(plain, sde)(x, T)
    np.testing.assert_allclose(out.x0, [2.4, 1.6, 2.0, 2.2, 6.0], rtol=1e-5)
    with pytest.raises(ValueError, match=r"quantile=1\.5.*0 < quantile <= 1"):
        thresholded(1.5)


def test_clipping_does_not_hide_an_infinite_output():
    """The network overflows half-way; samples lie inside the range, the report is not fooled."""

    def network(params, x, t, cond):
        return jnp.where(t < 0.5, jnp.inf, 0.1) * jnp.ones_like(x)

    model = make_model(
        network, prediction.eps, batched=False, conditioning=raw_time, scaling=no_scaling
    )
    method = on_grid(ddim(), 10)
    draw = make_sampler(model, method, (2,), transform=clipped(-1.0, 1.0))
    _, stats = draw(None, processes.vp(), jax.random.key(0), jnp.arange(3))
    np.testing.assert_array_equal(stats.result, NOT_FINITE)
