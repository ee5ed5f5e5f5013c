"""A few-step solver for a model: better than what it starts from, on noise it has not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import fewstep, grids, processes, samplers, truth
from sdejax.build import Parts
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.prediction import encode, eps
from sdejax.sde import coefficients

MIXTURES = [
    truth.isotropic(jnp.asarray([0.3, 0.7]), jnp.asarray([[a, 1.0], [-1.0, -a]]), jnp.full(2, 0.2))
    for a in (0.5, -0.5)
]


def parts_of(sde, num_classes=None):
    """A model that is exact: class k is the k-th mixture."""

    def network(params, x, t, cond):
        pair = [truth.estimate(dist, sde, x, t) for dist in MIXTURES]
        k = 0 if cond is None else cond
        chosen = jax.tree.map(lambda a, b: jnp.where(k == 0, a, b), *pair)
        return encode(eps, coefficients(sde, t), chosen)

    model = make_model(network, eps, batched=False, conditioning=raw_time, scaling=no_scaling)
    return Parts(sde, model, None, (2,), num_classes)


def error(parts, method, indices, cond=None):
    """RMS distance from accurate samples of the same noise."""
    x, accurate = (
        samplers.make_sampler(parts.model, m, (2,))(
            None, parts.sde, jax.random.key(9), indices, cond
        )
        for m in (method, samplers.ode())
    )
    return float(jnp.sqrt(jnp.mean((x[0] - accurate[0]) ** 2)))


@pytest.mark.parametrize("classes", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_a_fitted_solver_is_nearer_to_accurate_samples(classes):
    parts = parts_of(processes.vp(t_max=0.99), classes)
    solver, losses = fewstep.fit(parts, None, 3, pairs=64, iterations=100, batch=16)
    assert losses[0] > 1.5 * losses.min()
    indices = jnp.arange(32)
    cond = None if classes is None else indices % 2
    fixed = samplers.on_grid(samplers.dpmpp_2m(), 2, grids.uniform_log_snr)
    found = error(parts, samplers.learned(solver), indices, cond)
    assert found < 0.7 * error(parts, fixed, indices, cond)


def test_the_transform_is_fitted_with_the_model():
    """A denoiser that always answers (0.2, 0.3) sends every sample there, whatever the solver."""

    def fixed(denoiser, sde):
        def answer(x, t):
            x0 = jnp.asarray([0.2, 0.3])
            return denoiser(x, t)._replace(x0=x0)

        return answer

    _, losses = fewstep.fit(
        parts_of(processes.vp(t_max=0.99)),
        None,
        3,
        transform=fixed,
        pairs=16,
        iterations=10,
        batch=8,
    )
    np.testing.assert_allclose(losses[0], 0.0, atol=1e-6)


def test_misuse_is_named():
    parts = parts_of(processes.vp())
    with pytest.raises(ValueError, match="got 1 evaluations, 64 pairs"):
        fewstep.fit(parts, None, 1, pairs=64)
    with pytest.raises(ValueError, match="got 4 evaluations, 3 pairs"):
        fewstep.fit(parts, None, 4, pairs=3)
