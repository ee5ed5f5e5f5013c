"""Maximum likelihood reaches the entropy; its gradient has mean zero over what the model draws."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from oracles import PROCESSES, skewed
from stats import assert_mean

from sdejax import prediction, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import init_linen, linen_functions, make_denoiser, make_model, no_scaling
from sdejax.divergence import hutchinson
from sdejax.likelihood import Reversible, log_likelihood, sample_and_log_prob
from sdejax.likelihood.training import angles, make_likelihood_loss, maximum_likelihood
from sdejax.nets.mlp import MLP
from sdejax.sde import coefficients, prior_sample

KEY = jax.random.key(0)


def batch_of(x, **more):
    return {"x": x, "position": jnp.arange(len(x)), **more}


def test_a_model_that_contains_gaussians_reaches_the_entropy_of_the_best_one(x64):
    """min -log p = log det(2 pi e C)/2 with C the covariance of the data, whatever these are."""
    sde = processes.vp()

    def apply_fn(params, x, t, cond):
        c, factor = coefficients(sde, t), jnp.tril(params["factor"])
        cov = factor @ factor.T
        inner = c.alpha**2 * cov + c.sigma**2 * jnp.eye(2)
        pulled = jnp.linalg.solve(inner, x - c.alpha * params["mean"])
        return params["mean"] + c.alpha * cov @ pulled

    model = make_model(
        apply_fn, prediction.x0, batched=False, conditioning=raw_time, scaling=no_scaling
    )
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(40, 2)) @ np.asarray([[0.5, 0.3], [0.0, 0.2]]) - 0.5
    loss_fn = make_likelihood_loss(model, sde, tolerance=1e-8)
    wrong = {"mean": jnp.asarray([0.5, 0.5]), "factor": jnp.asarray([[1.0, 0.0], [0.3, 0.7]])}
    flat, unravel = ravel_pytree(wrong)

    @jax.jit
    def mean(flat):
        return jax.value_and_grad(
            lambda flat: jnp.mean(loss_fn(unravel(flat), KEY, batch_of(jnp.asarray(x)))[0])
        )(flat)

    found = scipy.optimize.minimize(mean, flat, jac=True, method="BFGS", options={"gtol": 1e-6})
    cov = np.cov(x.T, ddof=0)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * cov)[1] / 2
    assert mean(flat)[0] > entropy + 0.2
    np.testing.assert_allclose(found.fun, entropy, rtol=0, atol=1e-7)
    # The optimum is the Gaussian whose flow carries the stated prior to mean and covariance of x.
    best = unravel(jnp.asarray(found.x))
    factor = np.tril(best["factor"])
    widths, axes = np.linalg.eigh(factor @ factor.T)
    (a0, s0), (a1, s1) = (
        (float(sde.alpha(t)), np.sqrt(float(sde.alpha(t)) ** 2 * widths + float(sde.sigma(t)) ** 2))
        for t in (sde.t_min, sde.t_max)
    )
    mean_of = axes @ ((a0 - a1 * s0 / s1) * (axes.T @ np.asarray(best["mean"])))
    np.testing.assert_allclose(mean_of, x.mean(0), atol=1e-5)
    np.testing.assert_allclose((axes * (s0 / s1) ** 2) @ axes.T, cov, atol=1e-5)


def labelled():
    """A network with labels of no particular meaning, in x64 or not."""

    def apply_fn(params, x, t, cond):
        return jnp.tanh(x @ params["w"] + params["e"][cond] + t) - 0.2 * x

    rng = np.random.default_rng(1)
    params = {"w": rng.normal(size=(2, 2)), "e": rng.normal(size=(3, 2))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), params)
    return make_model(apply_fn, prediction.edm(0.5), batched=False), params


@pytest.mark.parametrize(
    "options", [{"tolerance": 1e-6}, {"ts": 32, "adjoint": Reversible()}], ids=["adaptive", "grid"]
)
def test_over_draws_of_the_model_the_gradient_has_mean_zero(options, x64):
    """E grad log p = grad of one, for any network: every part of the derivative is in it."""
    (model, params), sde = labelled(), processes.ve()
    if "ts" in options:
        options = {**options, "ts": angles(sde, options["ts"])}
    loss_fn = make_likelihood_loss(model, sde, **options)
    keys = jax.random.split(KEY, 500)
    labels = jnp.arange(500) % 3

    def draw(key, label):
        denoiser = make_denoiser(model, params, sde, label)
        return sample_and_log_prob(key, sde, denoiser, prior_sample(key, sde, (2,)))[0]

    @jax.jit
    @jax.vmap
    def gradients(x, label):
        batch = batch_of(x[None], label=label[None])
        return ravel_pytree(jax.grad(lambda p: loss_fn(p, KEY, batch)[0][0])(params))[0]

    x = jax.jit(jax.vmap(draw))(keys, labels)
    found = gradients(x, labels)
    assert_mean(found, 0.0)
    assert np.all(np.std(found, axis=0) > 1e-3)
    with pytest.raises(AssertionError):
        assert_mean(gradients(1.1 * x + 0.1, labels), 0.0)


@pytest.mark.slow
def test_a_network_reaches_the_entropy_of_a_skewed_mixture():
    """KL(data || model) from 0.30 to below 0.02 nats, and the model is a density."""
    sde, dist = processes.edm(0.05, 20.0), truth.mixture(*(jnp.asarray(p) for p in skewed()))
    net = MLP(hidden=(32, 32), time_features=16)
    model = make_model(linen_functions(net)[0], prediction.edm(1.5), batched=True)
    params = init_linen(KEY, net, (1,))
    options = {"ts": angles(sde, 16, 1.5), "adjoint": Reversible(), "sigma_data": 1.5}
    loss_fn = make_likelihood_loss(model, sde, **options)
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, 160))

    @jax.jit
    def step(params, state, key):
        data_key, loss_key = jax.random.split(key)
        keys = jax.random.split(data_key, 128)
        x = jax.vmap(lambda k: truth.sample_at(k, dist, sde, sde.t_min))(keys)
        gradient = jax.grad(lambda p: jnp.mean(loss_fn(p, loss_key, batch_of(x))[0]))(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    x = jnp.linspace(-6.0, 6.0, 401)[:, None]
    log_q = np.asarray(jax.vmap(lambda x: truth.log_prob(dist, sde, x, sde.t_min))(x), float)

    @jax.jit
    def log_p(params):
        denoiser = make_denoiser(model, params, sde)
        judged = {"tolerance": 1e-5, "sigma_data": 1.5}  # by other steps than those of training
        return jax.vmap(lambda x: log_likelihood(KEY, sde, denoiser, x, **judged).log_p)(x)

    def judge(params):
        found = np.asarray(log_p(params), float)
        return 0.03 * np.sum(np.exp(log_q) * (log_q - found)), 0.03 * np.sum(np.exp(found))

    assert judge(params)[0] > 0.25
    state = tx.init(params)
    for i in range(160):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(5), i))
    gap, mass = judge(params)
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)
    assert 0.0 < gap < 0.02, gap


def test_losses_depend_on_the_place_in_the_batch_alone(strict):
    (model, params), sde = labelled(), processes.edm()
    masked = model._replace(
        train_apply=lambda p, x, t, c, key: (
            model.apply(p, x, t, c) * jax.random.normal(key, x.shape, x.dtype)
        )
    )
    options = {"ts": angles(sde, 6), "solver": dfx.Heun(), "divergence": hutchinson(1)}
    loss_fn = jax.jit(make_likelihood_loss(masked, sde, **options))
    x = jax.random.normal(KEY, (6, 2))
    whole = batch_of(x, label=jnp.arange(6) % 3)
    losses, aux = loss_fn(params, KEY, whole)
    part = {name: value[2:4] for name, value in whole.items()}
    np.testing.assert_allclose(loss_fn(params, KEY, part)[0], losses[2:4], rtol=1e-5)
    np.testing.assert_array_equal(aux["nfe"], 12.0)
    same = {**whole, "x": jnp.tile(x[:1], (6, 1)), "label": jnp.zeros(6, int)}
    assert len(np.unique(loss_fn(params, KEY, same)[0])) == 6  # probes and masks of their own
    assert not np.allclose(loss_fn(params, jax.random.key(1), whole)[0], losses)


def test_labels_are_conditions_and_are_dropped(strict):
    (model, params), sde = labelled(), processes.edm()
    x, ts = jax.random.normal(KEY, (3, 2)), angles(sde, 6)
    options = {"ts": ts, "solver": dfx.Heun()}
    loss_fn = make_likelihood_loss(model, sde, **options)
    compiled = jax.jit(loss_fn)
    losses = compiled(params, KEY, batch_of(x, label=jnp.asarray([0, 1, 1])))[0]

    @jax.jit
    def log_p(x, label):
        denoiser = make_denoiser(model, params, sde, label)
        return log_likelihood(KEY, sde, denoiser, x, **options).log_p

    for i, label in enumerate((0, 1, 1)):
        np.testing.assert_allclose(losses[i], -log_p(x[i], label) / 2, rtol=1e-5)
    dropped = make_likelihood_loss(model, sde, label_drop=1.0, null_label=2, **options)
    found = jax.jit(dropped)(params, KEY, batch_of(x, label=jnp.asarray([0, 1, 1])))[0]
    null = compiled(params, KEY, batch_of(x, label=jnp.full(3, 2)))[0]
    np.testing.assert_allclose(found, null, rtol=1e-6)


def test_the_row_of_a_config_is_the_same_loss(strict):
    (model, params), sde = labelled(), processes.edm()
    batch = batch_of(jax.random.normal(KEY, (2, 2)), label=jnp.asarray([0, 1]))
    row = maximum_likelihood(probes=2, steps=8, adjoint="reversible", sigma_data=0.7)
    options = {"divergence": hutchinson(2), "sigma_data": 0.7, "adjoint": Reversible()}
    plain = make_likelihood_loss(model, sde, ts=angles(sde, 8, 0.7), **options)
    found, expected = (
        jax.jit(loss_fn)(params, KEY, batch)[0] for loss_fn in (row(model, sde, 64), plain)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", PROCESSES)
def test_steps_of_the_angle_are_equal(name, x64):
    sde = PROCESSES[name]()
    ts = angles(sde, 9, 0.7)
    assert (ts[0], ts[-1]) == (sde.t_max, sde.t_min)
    alpha, sigma = (np.asarray(jax.vmap(fn)(ts)) for fn in (sde.alpha, sde.sigma))
    steps = np.diff(np.arctan2(sigma, 0.7 * alpha))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_what_is_refused():
    model, _ = labelled()
    flat = make_model(lambda p, x, t, c: x, prediction.eps, batched=False)
    with pytest.raises(ValueError, match=r"prediction 'eps'.*use velocity"):
        make_likelihood_loss(flat, processes.rectified_flow())
    with pytest.raises(ValueError, match="null_label"):
        make_likelihood_loss(model, processes.vp(), label_drop=0.1)
    with pytest.raises(ValueError, match=r"adjoint='magic'.*checkpoints.*reversible"):
        maximum_likelihood(adjoint="magic")
    for options in ({"adjoint": "reversible"}, {"steps": -1}):
        with pytest.raises(ValueError, match="steps"):
            maximum_likelihood(**options)
