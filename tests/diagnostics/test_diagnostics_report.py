"""All diagnostics in one call, as each is alone."""

import jax
import jax.numpy as jnp
import numpy as np
from planted import MIXTURE, draws, exact

from sdejax import diagnostics, processes
from sdejax.prediction import Estimate


def test_one_call_is_the_four(x64):
    sde, ts, key = processes.vp(), jnp.asarray([0.1, 0.5]), jax.random.key(3)

    def denoiser(x, t):
        return Estimate(jnp.tanh(x), x * jnp.sin(t + x[::-1]))

    def best(x, t):
        return Estimate(x, x)

    args = denoiser, sde, draws(MIXTURE(), 30), ts
    found = diagnostics.diagnose(key, *args, exact=best, probes=2, chunk=16)
    keys = jax.random.split(key, 4)
    alone = diagnostics.Diagnosis(
        diagnostics.calibration(keys[0], *args, exact=best),
        diagnostics.asymmetry(keys[1], *args, probes=2),
        diagnostics.residual(keys[2], *args, probes=2),
        diagnostics.stein(keys[3], *args, probes=2),
    )
    assert jax.tree.structure(found) == jax.tree.structure(alone)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        assert a.shape == (2,)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15)


def test_conditions_reach_the_denoiser(x64):
    """Class k is a Gaussian of its own; given the classes, the exact score is ideal."""
    sde, dist = processes.vp(), MIXTURE()
    labels = jnp.arange(400) % 2
    x0 = draws(dist, 400) + 3.0 * labels[:, None].astype(float)

    def denoiser(x, t, label):
        moved = dist._replace(means=dist.means + 3.0 * label.astype(x.dtype))
        return exact(moved, sde)(x, t)

    given = (jax.random.key(5), denoiser, sde, x0, None)
    found = jax.jit(lambda c: diagnostics.diagnose(*given, c, exact=denoiser))(labels)
    assert found.stein.t.shape == (12,)
    np.testing.assert_allclose(found.calibration.excess.value, 0.0, atol=1e-20)
    assert np.max(found.residual.scaled.value) < 1e-20
    z = (found.calibration.slope.value - 1.0) / found.calibration.slope.error
    assert np.all(np.abs(z) < 5)
