"""Bounds as losses: gradients in x and in parameters, one draw, and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import denoiser, divergence, grids, prediction, processes
from sdejax.likelihood.chain import chain_bound
from sdejax.likelihood.decoders import gaussian
from sdejax.likelihood.elbo import data_bound, state_bound

KEY = jax.random.key(1)
SDE = processes.vp()
PARAMS = {"in": np.array([[0.8, -0.5, 0.3], [0.2, 0.9, -0.7]]), "time": np.array([0.1, -0.2, 0.05])}
X = np.array([0.6, -0.9])


def network(params, x, t, cond):
    """A small smooth network of noise."""
    hidden = jnp.tanh(x @ params["in"] + t * params["time"])
    return params["in"] @ hidden


MODEL = denoiser.make_model(network, prediction.eps, batched=False)
BOUNDS = {
    "data": lambda d, x: data_bound(KEY, SDE, d, x),
    "data, four draws, decoder": lambda d, x: data_bound(
        KEY, SDE, d, x, samples=4, decoder=gaussian(0.1, denoise=True), chunk=2
    ),
    "state": lambda d, x: state_bound(KEY, SDE, d, x),
    "state, trace": lambda d, x: state_bound(
        KEY, SDE, d, x, samples=3, divergence=divergence.exact()
    ),
    "chain": lambda d, x: chain_bound(KEY, SDE, d, x, grids.uniform(SDE, 6), variance=0.5),
    "chain, two draws": lambda d, x: chain_bound(
        KEY, SDE, d, x, grids.uniform(SDE, 6), samples=2, decoder=gaussian(0.1, denoise=True)
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_gradients_are_those_of_differences(name, x64):
    """Central differences along a direction in x and in the parameters, the key fixed."""

    def log_p(inputs):
        params, x = inputs
        return BOUNDS[name](denoiser.make_denoiser(MODEL, params, SDE), x).log_p

    inputs = jax.tree.map(jnp.asarray, (PARAMS, X))
    rng = np.random.default_rng(0)
    in_params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), PARAMS)
    in_x = jnp.asarray(rng.normal(size=2))
    nothing = jax.tree.map(jnp.zeros_like, inputs)
    run, gradient = jax.jit(log_p), jax.jit(jax.grad(log_p))(inputs)
    for direction in ((in_params, nothing[1]), (nothing[0], in_x)):

        def at(step, direction=direction):
            return run(jax.tree.map(lambda a, b: a + step * b, inputs, direction))

        expected = (8.0 * (at(1e-4) - at(-1e-4)) - (at(2e-4) - at(-2e-4))) / 12e-4
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        got = sum(jnp.sum(g * d) for g, d in pairs)
        np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_one_draw_is_enough_to_train_by():
    """K = 1 in float32: one call, no error to report, and no NaN of it in the gradient."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)

    def log_p(x):
        bound = data_bound(KEY, SDE, denoiser.make_denoiser(MODEL, params, SDE), x)
        return bound.log_p, bound

    gradient, bound = jax.jit(jax.grad(log_p, has_aux=True))(jnp.asarray(X, jnp.float32))
    assert np.all(np.isfinite(gradient))
    assert bound.nfe == 1
    assert np.isnan(bound.standard_error)


@pytest.mark.parametrize("name", ["data, four draws, decoder", "chain, two draws"])
def test_vmap_changes_nothing(name, x64):
    def run(x):
        params = jax.tree.map(jnp.asarray, PARAMS)
        return BOUNDS[name](denoiser.make_denoiser(MODEL, params, SDE), x)

    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    together, alone = jax.jit(jax.vmap(run))(xs), jax.jit(run)
    for i in range(3):
        for a, b in zip(together, alone(xs[i]), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-12)
