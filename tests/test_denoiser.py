import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import PREDICTIONS, PROCESSES

from sdejax import prediction, processes
from sdejax.denoiser import (
    clipped,
    in_evaluation,
    init_linen,
    linen_functions,
    log_noise,
    make_denoiser,
    make_model,
    no_scaling,
    noise_level,
    raw_time,
    scaled_time,
    unit_variance,
)
from sdejax.prediction import Estimate, encode
from sdejax.samplers import ddim, make_sampler, on_grid
from sdejax.samplers.base import NOT_FINITE
from sdejax.sde import coefficients, perturb

T = jnp.float32(0.3)


class Net(nn.Module):
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x, t, cond, train=False):
        h = nn.Dense(8)(jnp.concatenate([x, t[:, None], cond[:, None].astype(x.dtype)], axis=-1))
        if self.batch_norm:
            h = nn.BatchNorm(use_running_average=not train)(h)
        h = nn.Dropout(0.5, deterministic=not train)(nn.tanh(h))
        return nn.Dense(x.shape[-1])(h)


def test_a_batched_network_and_its_single_twin_agree():
    net = Net()
    params = init_linen(jax.random.key(0), net, (3,), cond=jnp.int32(1))
    apply_fn, train_apply_fn = linen_functions(net)

    def single_fn(params, x, t, cond):
        assert (x.ndim, t.ndim, cond.ndim) == (1, 0, 0)
        return apply_fn(params, x[None], t[None], cond[None])[0]

    x, label = jnp.asarray([0.3, -0.2, 1.0]), jnp.int32(2)
    sde = processes.vp()
    outs = [
        make_denoiser(make_model(f, PREDICTIONS["v"], batched=b), params, sde, label)(x, T)
        for f, b in ((apply_fn, True), (single_fn, False))
    ]
    for a, b in zip(*outs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    # And it is the decoded output at EDM's scaled input and conditioning.
    c = coefficients(sde, T)
    s = np.sqrt(0.25 * float(c.alpha) ** 2 + float(c.sigma) ** 2)
    noise = jnp.asarray([np.log(float(c.sigma / c.alpha)) / 4], jnp.float32)
    output = apply_fn(params, x[None] / s, noise, label[None])[0]
    x0 = c.alpha * x - c.sigma * output  # v on a variance-preserving process
    np.testing.assert_allclose(outs[0].x0, x0, rtol=1e-5, atol=1e-6)
    model = make_model(apply_fn, PREDICTIONS["v"], batched=True, train_apply_fn=train_apply_fn)
    drawn = [model.train_apply(params, x, T, label, jax.random.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])  # dropout sees its key
    assert np.all(model.apply(params, x, T, label) == model.apply(params, x, T, label))


def test_an_nnx_network_fits():
    class Small(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 8, rngs=rngs)
            self.last = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x, t):
            return self.last(nnx.tanh(self.first(jnp.concatenate([x, t[:, None]], axis=-1))))

    network = Small(nnx.Rngs(0))
    graph, params = nnx.split(network)

    def apply_fn(params, x, t, cond):
        return nnx.merge(graph, params)(x, t)

    model = make_model(apply_fn, PREDICTIONS["eps"], batched=True, conditioning=raw_time,
                       scaling=no_scaling)  # fmt: skip
    sde, x = processes.vp(), jnp.asarray([[0.3, -0.2], [1.0, 2.0]])
    run = jax.jit(jax.vmap(lambda params, x: make_denoiser(model, params, sde)(x, T), (None, 0)))
    expected = network(x, jnp.full((2,), T))
    np.testing.assert_allclose(run(params, x).eps, expected, rtol=1e-5)


def test_batch_statistics_are_refused_by_name():
    with pytest.raises(ValueError, match=r"module Net: got the collections \['batch_stats'\]"):
        init_linen(jax.random.key(0), Net(batch_norm=True), (3,), cond=jnp.int32(0))


@pytest.mark.parametrize("name", ["vp", "edm", "rectified_flow"])
def test_every_prediction_gives_the_same_denoiser(name, x64):
    """A perfect network of each type: the estimate encoded, seen through its scaled input."""
    sde = PROCESSES[name]()
    pair = Estimate(*jnp.asarray(np.random.default_rng(0).normal(size=(2, 5))))
    t = jnp.asarray(0.4)
    c, x = coefficients(sde, t), perturb(sde, *pair, t)
    for kind in PREDICTIONS.values():
        seen = []

        def network(params, inputs, noise, cond, kind=kind, seen=seen):
            seen.append((inputs, noise))
            return encode(kind, c, pair)

        out = make_denoiser(make_model(network, kind, batched=False), None, sde)(x, t)
        np.testing.assert_allclose(out.x0, pair.x0, rtol=1e-11)
        np.testing.assert_allclose(out.eps, pair.eps, rtol=1e-11)
        np.testing.assert_allclose(seen[0][0], x / np.hypot(0.5 * c.alpha, c.sigma), rtol=1e-12)


def test_the_network_is_called_once():
    calls = []

    def network(params, x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return x

    make_denoiser(make_model(network, PREDICTIONS["v"], batched=False), None, processes.vp())(
        jnp.ones(2), T
    )
    jax.effects_barrier()
    assert len(calls) == 1


def test_conditioning_is_finite_where_alpha_is_0():
    sde = processes.rectified_flow()
    assert log_noise(sde, 1.0) == 5.0
    assert log_noise(sde, 0.0) == -5.0
    np.testing.assert_allclose(log_noise(sde, 0.2), np.log(0.25) / 4, rtol=1e-6)
    np.testing.assert_allclose(log_noise(processes.edm(), 80.0), np.log(80) / 4, rtol=1e-6)
    assert raw_time(sde, 0.25) == 0.25
    assert scaled_time(999.0)(sde, 0.5) == 499.5
    assert noise_level(processes.edm(), 3.0) == 3.0


@pytest.mark.parametrize("name", PROCESSES)
def test_scaled_inputs_have_unit_variance(name):
    sde = PROCESSES[name]()
    x0, eps = np.random.default_rng(0).normal(size=(2, 200_000)) * np.asarray([[0.7], [1.0]])
    x0, eps = jnp.asarray(x0, jnp.float32), jnp.asarray(eps, jnp.float32)
    for t in (sde.t_min, 0.3, sde.t_max):
        inputs = unit_variance(0.7)(coefficients(sde, t)) * perturb(sde, x0, eps, t)
        np.testing.assert_allclose(np.var(inputs), 1.0, rtol=0.02)


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


def test_evaluation_leaves_dropout_out():
    def noisy(params, x, t, cond, key):
        return x + jax.random.normal(key, x.shape)

    model = make_model(
        lambda params, x, t, cond: x, prediction.eps, batched=False, train_apply_fn=noisy
    )
    x, t, key = jnp.ones(3), jnp.asarray(0.5), jax.random.key(0)
    assert jnp.any(model.train_apply(None, x, t, None, key) != x)
    np.testing.assert_array_equal(in_evaluation(model).train_apply(None, x, t, None, key), x)
