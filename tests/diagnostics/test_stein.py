"""Stein's identity under p_t, and over the noise for any smooth network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import DEFECTS, MIXTURE, assert_near, draws, exact, gaussian, means, scaled

from sdejax import diagnostics, processes
from sdejax.diagnostics import stein
from sdejax.prediction import Estimate

TS = (0.02, 0.1, 0.3, 0.7)


@pytest.mark.parametrize("name", ["sub_vp", "edm", "cosine"])
def test_the_exact_score_balances(x64, name):
    sde, dist = getattr(processes, name)(), MIXTURE()
    found = stein(
        jax.random.key(1), exact(dist, sde), sde, draws(dist, 3000), diagnostics.times(sde, 5)
    )
    assert_near(found.gap, 0.0)
    assert_near(found.agreement, 0.0)


@pytest.mark.parametrize("probes", [None, 2])
@pytest.mark.parametrize("name", DEFECTS)
def test_defects_have_the_size_they_should(x64, name, probes):
    sde, dist, ts = processes.vp(), gaussian(), jnp.asarray(TS)
    found = stein(
        jax.random.key(2), DEFECTS[name](dist, sde), sde, draws(dist, 4000), ts, probes=probes
    )
    expected = [means(name, sde, t) for t in TS]
    norm, overlap, _ = (np.asarray(column) for column in zip(*expected, strict=True))
    assert_near(found.gap, norm - overlap)  # of a linear guess sigma div = E<eps_hat, eps>
    assert_near(found.agreement, 0.0)
    assert_near(found.dsm, norm - 2.0 * overlap)
    assert_near(found.ism, norm - 2.0 * overlap)
    if name in ("scaled", "late"):  # a curl changes the size by its square only
        assert np.max(np.abs(found.gap.value) / found.gap.error) > 10


def test_a_scaled_score_of_a_skewed_mixture(x64):
    """E[|s|^2 + div s] = c (1 + c) E|score|^2 for s = (1 + c) score."""
    sde, dist, ts = processes.vp(), MIXTURE(), jnp.asarray(TS)
    args = sde, draws(dist, 3000), ts
    right = stein(jax.random.key(3), exact(dist, sde), *args)
    wrong = stein(jax.random.key(3), scaled(dist, sde), *args)
    norm = right.gap.value + (right.gap.value - right.ism.value)  # |eps*|^2 = 2 gap - ism
    np.testing.assert_allclose(
        wrong.gap.value, 1.2 * right.gap.value + 1.2 * 0.2 * norm, rtol=1e-10
    )
    assert_near(wrong.gap, 1.2 * 0.2 * norm)


def test_a_network_of_steps_disagrees(x64):
    """eps_hat = round(eps) has no slope, but E<round(z), z> is the sum of phi(k + 1/2), 1."""
    sde, x0 = processes.vp(), jnp.broadcast_to(jnp.asarray([1.0, -2.0]), (2000, 2))

    def stairs(x, t):
        steps = jnp.round((x - jnp.asarray(sde.alpha(t)) * x0[0]) / jnp.asarray(sde.sigma(t)))
        return Estimate(x0[0], steps)

    found = stein(jax.random.key(4), stairs, sde, x0, jnp.asarray(TS))
    assert_near(found.agreement, 1.0)
