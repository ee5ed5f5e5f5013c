import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import PREDICTIONS, PROCESSES

from sdejax import prediction, processes
from sdejax.conditioning import raw_time
from sdejax.denoiser import (
    in_evaluation,
    init_linen,
    linen_functions,
    make_denoiser,
    make_model,
    no_scaling,
    unit_variance,
)
from sdejax.prediction import Estimate, encode
from sdejax.samplers import ddim, make_sampler, on_grid
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


def test_without_a_training_function_the_network_itself_is_trained():
    """Batch first, it sees one leading axis, for one example and for many."""

    def network(params, x, t, cond):
        assert (x.ndim, t.ndim, cond.ndim) == (2, 1, 1)
        return params * x * t[:, None] + cond[:, None]

    model, key = make_model(network, PREDICTIONS["v"], batched=True), jax.random.key(0)
    x, label = jnp.asarray([0.3, -0.2, 1.0]), jnp.float32(2.0)
    one = model.train_apply(2.0, x, T, label, key)
    np.testing.assert_allclose(one, 0.6 * x + 2.0, rtol=1e-6)
    many = model.batch_train_apply(2.0, x[None], T[None], label[None], key)
    np.testing.assert_array_equal(many[0], one)
    for same in (
        in_evaluation(model),
        make_model(lambda *a: a[1], model.prediction, batched=False),
    ):
        assert same.batch_train_apply is None


def test_examples_of_a_batch_first_network_share_a_call_and_keep_all_derivatives():
    shapes = []

    def network(params, x, t, cond):
        shapes.append((x.shape, t.shape, cond.shape))
        return jnp.tanh(params * x) * t[:, None] + cond[:, None].astype(x.dtype)

    def plain(params, x, t, cond):
        return jnp.tanh(params * x) * t + cond.astype(x.dtype)

    apply = make_model(network, PREDICTIONS["v"], batched=True).apply
    p, x = jnp.float32(0.7), jnp.asarray([[0.3, -0.2], [1.0, 2.0], [-1.0, 0.5]])
    label, axes = jnp.arange(3), (None, 0, None, 0)
    jax.vmap(apply, axes)(p, x, T, label)
    assert shapes[-1] == ((3, 2), (3,), (3,))

    def both(transform, *args):
        got, want = (transform(f)(*args) for f in (apply, plain))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), got, want)

    both(lambda f: f, p, x[0], T, label[0])
    both(lambda f: jax.jit(jax.vmap(f, axes)), p, x, T, label)
    both(lambda f: jax.vmap(jax.vmap(f, axes), (None, None, 0, None)), p, x, T * jnp.ones(4), label)
    both(lambda f: jax.vmap(f, (0, 0, None, None)), p * jnp.arange(3.0), x, T, label[0])
    both(lambda f: jax.vmap(jax.jacrev(f, (0, 1, 2)), axes), p, x, T, label)
    both(lambda f: jax.jacrev(jax.vmap(f, axes), (0, 1, 2)), p, x, T, label)
    both(lambda f: jax.vmap(jax.jacfwd(f, (0, 1, 2)), axes), p, x, T, label)
    both(lambda f: jax.jacfwd(jax.jacrev(f, 1), 1), p, x[0], T, label[0])
    both(lambda f: lambda u: jax.linearize(lambda y: f(p, y, T, label[0]), x[0])[1](u), x[1])


def test_a_tangent_of_x_costs_no_products_with_zeros_for_the_parameters():
    def network(params, x, t, cond):
        for w in params:
            x = x @ w
        return x

    apply = make_model(network, PREDICTIONS["v"], batched=True).apply
    params = [jnp.eye(2), jnp.ones((2, 2))]
    found = jax.make_jaxpr(lambda x, u: jax.jvp(lambda y: apply(params, y, T, None), (x,), (u,)))(
        *jnp.ones((2, 2))
    )
    assert str(found).count("dot_general") == 4  # two for the value and two for its tangent


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


@pytest.mark.parametrize("name", PROCESSES)
def test_scaled_inputs_have_unit_variance(name):
    sde = PROCESSES[name]()
    x0, eps = np.random.default_rng(0).normal(size=(2, 200_000)) * np.asarray([[0.7], [1.0]])
    x0, eps = jnp.asarray(x0, jnp.float32), jnp.asarray(eps, jnp.float32)
    for t in (sde.t_min, 0.3, sde.t_max):
        inputs = unit_variance(0.7)(coefficients(sde, t)) * perturb(sde, x0, eps, t)
        np.testing.assert_allclose(np.var(inputs), 1.0, rtol=0.02)


@pytest.mark.parametrize("shape", [(1,), (3, 1), ()])
def test_a_network_of_another_shape_is_refused(shape):
    """Also one that would be broadcast in silence."""
    model = make_model(lambda params, x, t, cond: jnp.zeros(shape), prediction.eps, batched=False)
    draw = make_sampler(model, on_grid(ddim(), 3), (3,))
    with pytest.raises(
        ValueError, match=r"got an output of shape .* for an example of shape \[3\]"
    ):
        draw(None, processes.vp(), jax.random.key(0), jnp.arange(2))


def test_evaluation_leaves_dropout_out():
    def noisy(params, x, t, cond, key):
        return x + jax.random.normal(key, x.shape)

    model = make_model(
        lambda params, x, t, cond: x, prediction.eps, batched=False, train_apply_fn=noisy
    )
    x, t, key = jnp.ones(3), jnp.asarray(0.5), jax.random.key(0)
    assert jnp.any(model.train_apply(None, x, t, None, key) != x)
    np.testing.assert_array_equal(in_evaluation(model).train_apply(None, x, t, None, key), x)
