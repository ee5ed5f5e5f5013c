import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, plane
from stats import assert_mean

from sdejax import energy, losses, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import init_linen, linen_functions, make_denoiser, make_model, no_scaling
from sdejax.nets.mlp import MLP
from sdejax.samplers.diffeq import solve_ode

KEY = jax.random.key(0)
SDE = processes.vp()
NET = MLP(hidden=(16,), time_features=8)
KINDS = {"inner": energy.inner, "distance": energy.distance}


def weighted(params):
    """Parameters that are not those of a fresh network, whose output is zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    new = [
        a + 0.3 * jax.random.normal(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, new)


def scalar(params, u, t, cond):
    """An energy of one example with nothing symmetric in it."""
    hidden = jnp.tanh(params["w"] @ u + params["b"] * t)
    return params["v"] @ hidden + 0.3 * jnp.sum(u**2) + 0.1 * u[0] ** 2 * u[1]


def scalar_params(dtype=float):
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 2), "b": (5,), "v": (5,)}
    return {k: jnp.asarray(rng.normal(size=shape).astype(dtype)) for k, shape in shapes.items()}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_has_a_potential(kind, x64):
    """The score is the gradient of the stated log-density, so its Jacobian is symmetric."""
    model = make_model(energy.conservative(scalar), PREDICTIONS[kind], batched=False)
    params, x = scalar_params(), jnp.asarray([0.6, -1.1])

    @jax.jit
    def at(t):
        score = lambda x: losses.model_score(model, params, SDE, t)(x)  # noqa: E731
        density = energy.log_density(scalar, model, params, SDE)
        return score(x), jax.jacfwd(score)(x), jax.grad(density)(x, t)

    for t in (0.1, 0.7):
        score, jacobian, slope = at(jnp.asarray(t))
        np.testing.assert_allclose(score, slope, rtol=1e-9)
        np.testing.assert_allclose(jacobian, jacobian.T, rtol=1e-9)
        assert abs(jacobian[0, 1]) > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_vector_networks_are_their_formulas(name, x64):
    """-grad |u - f|^2 / 2 = (J - I)^T (u - f), -grad u . f = -f - J^T u."""
    a = jnp.asarray([[0.3, 0.9], [-0.5, 0.2]])
    apply_fn = lambda params, u, t, cond: jnp.tanh(a @ u) + t  # noqa: E731
    u, t = jnp.asarray([0.6, -1.1]), jnp.asarray(0.3)
    f, j = apply_fn(None, u, t, None), jax.jacfwd(lambda u: apply_fn(None, u, t, None))(u)
    expected = {"distance": (j - np.eye(2)).T @ (u - f), "inner": -f - j.T @ u}[name]
    found = energy.conservative(KINDS[name](apply_fn))(None, u, t, None)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_fresh_network_has_the_gradient_zero_as_an_inner_product():
    """And learns from there: its parameters have a gradient."""
    params = init_linen(KEY, NET, (2,))
    apply_fn, train_fn = (energy.conservative(energy.inner(f)) for f in linen_functions(NET))
    x, t = jnp.asarray([[0.6, -1.1], [2.0, 0.3]]), jnp.asarray([0.3, 0.5])
    np.testing.assert_array_equal(apply_fn(params, x, t, None), 0.0)
    slope = jax.grad(lambda p: jnp.sum((train_fn(p, x, t, None, KEY) - x) ** 2))(params)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(slope)) > 0.1


@pytest.mark.parametrize("name", KINDS)
def test_batch_first_networks_row_by_row(name):
    """A batch, its rows alone, vmap, and the log-density of a model that is written batch first."""
    params = weighted(init_linen(KEY, NET, (2,)))
    energy_fn = KINDS[name](linen_functions(NET)[0])
    apply_fn = energy.conservative(energy_fn)
    x, t = jnp.asarray([[0.6, -1.1], [2.0, 0.3]]), jnp.asarray([0.3, 0.5])
    whole = apply_fn(params, x, t, None)
    np.testing.assert_allclose(whole[1:], apply_fn(params, x[1:], t[1:], None), rtol=1e-4)
    model = make_model(apply_fn, PREDICTIONS["eps"], batched=True)
    score = lambda x: losses.model_score(model, params, SDE, 0.3)(x)  # noqa: E731
    density = energy.log_density(energy_fn, model, params, SDE, batched=True)
    one = x[0]
    np.testing.assert_allclose(score(one), jax.grad(density)(one, 0.3), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(score))(x)[0], score(one), rtol=1e-4)
    jacobian = jax.jit(jax.jacfwd(score))(one)
    np.testing.assert_allclose(jacobian[0, 1], jacobian[1, 0], rtol=1e-3, atol=1e-4)


def exact(params, x, t, cond):
    """The energy -log p_t of the mixture, times a parameter."""
    return -params * truth.log_prob(plane(), SDE, x, t)


def exact_model():
    return make_model(
        energy.conservative(exact), PREDICTIONS["score"], batched=False, scaling=no_scaling,
        conditioning=raw_time,
    )  # fmt: skip


def test_an_exact_energy_samples_as_the_exact_score(x64):
    """Through the adaptive ODE solver: the same samples as of the mixture's own denoiser."""
    params, model = jnp.asarray(1.0), exact_model()
    density = energy.log_density(exact, model, params, SDE)
    x = jnp.asarray([0.4, -1.3])
    found = density(x, 0.3) - density(-x, 0.3)
    expected = truth.log_prob(plane(), SDE, x, 0.3) - truth.log_prob(plane(), SDE, -x, 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    noise = jax.random.normal(KEY, (4, 2))
    ours, theirs = (
        jax.jit(jax.vmap(lambda x, d=d: solve_ode(SDE, d, x)[0]))(noise)
        for d in (make_denoiser(model, params, SDE), truth.denoiser(plane(), SDE))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert np.std(ours) > 0.3


def test_training_an_energy_leads_to_the_truth():
    """The denoising loss has its minimum where the energy is -log p_t, seen from both sides."""
    model = exact_model()

    def slope(key, params):
        data_key, noise_key, time_key, loss_key = jax.random.split(key, 4)
        x0, eps = truth.sample(data_key, plane()), jax.random.normal(noise_key, (2,))
        t = jax.random.uniform(time_key, minval=0.1, maxval=0.9)
        loss = lambda p: losses.denoising_loss(loss_key, model, p, SDE, x0, eps, t)[0]  # noqa: E731
        return jax.grad(loss)(params)

    slopes = jax.jit(jax.vmap(slope, in_axes=(0, None)))
    keys = jax.random.split(KEY, 8192)
    assert_mean(slopes(keys, 1.0), 0.0)
    assert np.mean(slopes(keys, 0.8)) < -0.05
    assert np.mean(slopes(keys, 1.2)) > 0.05


def test_gradients_agree_in_both_precisions(strict):
    """Of the denoising loss in the parameters of an energy, a second derivative."""
    model = make_model(energy.conservative(scalar), PREDICTIONS["v"], batched=False)

    def gradient(dtype):
        x0, eps = jnp.asarray([0.3, -0.8], dtype), jnp.asarray([1.2, 0.4], dtype)
        loss = lambda p: losses.denoising_loss(KEY, model, p, SDE, x0, eps, 0.4)[0]  # noqa: E731
        params = scalar_params(dtype)
        return jax.grad(loss)(params), jax.jit(jax.grad(loss))(params)

    single, compiled = gradient(np.float32)
    with jax.enable_x64(True):
        double, _ = gradient(np.float64)
    for leaf in single:
        np.testing.assert_allclose(single[leaf], compiled[leaf], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(single[leaf], double[leaf], rtol=1e-4, atol=1e-6)
