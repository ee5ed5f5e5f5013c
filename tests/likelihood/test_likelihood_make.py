"""The batch function: any batch gives the same numbers, misuse is named, it compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import make_model, prediction, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import no_scaling
from sdejax.divergence import hutchinson
from sdejax.likelihood.make import make_log_likelihood
from sdejax.likelihood.ode import log_likelihood
from sdejax.samplers.base import check
from sdejax.sde import coefficients

KEY = jax.random.key(0)


def exact(kind, sde, dist, calls=None):
    """A network with the exact output for a distribution, shifted by its condition."""

    def apply_fn(params, x, t, cond):
        if calls is not None:
            calls.append(1)
        estimate = truth.estimate(dist, sde, x - cond, t)
        shifted = estimate._replace(x0=estimate.x0 + cond)
        return prediction.encode(kind, coefficients(sde, t), shifted)

    return make_model(apply_fn, kind, batched=False, conditioning=raw_time, scaling=no_scaling)


def test_an_example_depends_on_its_index_alone_and_nothing_compiles_twice(strict):
    sde, dist, traced = processes.edm(0.01, 20.0), truth.problems.cloud(5), []
    dist = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dist)
    evaluate = make_log_likelihood(
        exact(prediction.x0, sde, dist, traced), divergence=hutchinson(2), sigma_data=0.4
    )
    x = jax.vmap(lambda k: truth.sample(k, dist))(jax.random.split(KEY, 4))
    cond = jnp.zeros((4,))
    whole = evaluate(None, sde, KEY, x, jnp.arange(4), cond)
    check(whole)
    traces = len(traced)
    order = jnp.asarray([2, 0, 3, 1])
    again = evaluate(None, processes.edm(0.01, 20.0), KEY, x[order], order, cond)
    np.testing.assert_allclose(again.log_p, whole.log_p[order], rtol=1e-5, atol=1e-3)
    assert len(traced) == traces
    denoiser = truth.denoiser(dist, sde)
    alone = log_likelihood(
        jax.random.fold_in(KEY, 2), sde, denoiser, x[2], divergence=hutchinson(2), sigma_data=0.4
    )
    np.testing.assert_allclose(alone.log_p, whole.log_p[2], rtol=1e-4, atol=2e-3)


def test_the_condition_reaches_the_network(x64):
    """Data moved by the condition change their volume as the data they were moved from."""
    sde, dist = processes.edm(0.01, 20.0), truth.problems.g2()
    evaluate = make_log_likelihood(exact(prediction.x0, sde, dist), tolerance=1e-8)
    x = jnp.asarray([[0.6, 0.1], [-0.2, -0.5]])
    index, moved = jnp.arange(2), jnp.asarray([0.0, 0.0])
    plain = evaluate(None, sde, KEY, x, index, moved)
    shifted = evaluate(None, sde, KEY, x + 0.3, index, moved + 0.3)
    np.testing.assert_allclose(shifted.divergence, plain.divergence, atol=1e-5)
    np.testing.assert_allclose(shifted.latent, plain.latent + 0.3, atol=1e-5)


def test_singular_ends_and_shapes_are_refused_by_name():
    sde, dist = processes.rectified_flow(), truth.problems.g2()
    x, index, cond = jnp.ones((2, 2)), jnp.arange(2), jnp.zeros((2,))
    with pytest.raises(ValueError, match=r"prediction 'eps': got t=1\.0 with alpha=0"):
        make_log_likelihood(exact(prediction.eps, sde, dist))(None, sde, KEY, x, index, cond)
    clean = processes.RectifiedFlow(t_min=0.0, t_max=0.9)
    with pytest.raises(ValueError, match=r"prediction 'x0': got t=0\.0 with alpha=1, sigma=0"):
        make_log_likelihood(exact(prediction.x0, clean, dist))(None, clean, KEY, x, index, cond)
    one = make_log_likelihood(exact(prediction.velocity, sde, dist))
    for shapes in ((jnp.ones((2,)), index), (x, jnp.arange(3))):
        with pytest.raises(ValueError, match=r"expected \[n, \*event\] and \[n\]"):
            one(None, sde, KEY, *shapes, cond)
    wrong = make_model(lambda params, x, t, cond: x[:1], prediction.velocity, batched=False)
    with pytest.raises(ValueError, match=r"output of shape \[1\] for an example of shape \[2\]"):
        make_log_likelihood(wrong)(None, sde, KEY, x, index, cond)
