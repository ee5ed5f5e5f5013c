import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import PREDICTIONS, plane

from sdejax import losses, processes, times, truth, weights
from sdejax.denoiser import make_model
from sdejax.losses import make_loss
from sdejax.sde import coefficients

KEY = jax.random.key(0)
MAKERS = {
    "implicit": losses.implicit(),
    "hutchinson": losses.implicit(2, "gaussian"),
    "sliced": losses.sliced(),
    "sliced_vr": losses.sliced_vr(),
    "finite_difference": losses.finite_difference(),
    "second_order": losses.second_order(0.0),
}
PARAMS = {"A": jnp.asarray([[0.3, 0.5], [-0.4, 0.2]]), "b": jnp.asarray([0.2, -0.1]),
          "c": jnp.asarray([0.4, -0.6])}  # fmt: skip


def network(params, x, t, cond):
    out = params["A"] @ x + params["b"] * t + params["c"] * jnp.tanh(jnp.roll(x, 1))
    return out if cond is None else out + cond.astype(x.dtype)


def batch_of(n, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    x = jax.vmap(lambda key: truth.sample(key, plane()))(keys)
    return {"x": x, "position": jnp.arange(n)}


@pytest.mark.parametrize(
    ("kind", "process", "weight", "names"),
    [("v", "rectified_flow", weights.flow, ("implicit", "sliced", "finite_difference")),
     pytest.param("eps", "vp", weights.simple, MAKERS, marks=pytest.mark.slow),
     pytest.param("edm", "edm", weights.min_snr(), MAKERS, marks=pytest.mark.slow)],
)  # fmt: skip
def test_gradients_are_those_of_denoising(kind, process, weight, names):
    """Whole gradients in expectation, paired over steps; values differ by the mean of w(t)."""
    sde = {"vp": processes.vp(t_min=0.05), "rectified_flow": processes.rectified_flow(t_min=0.1),
           "edm": processes.edm(0.3, 5.0)}[process]  # fmt: skip
    density = times.uniform(sde, t_min=float(sde.t_min))
    capped = times.TimeDensity(lambda u: density.quantile(0.9 * u), density.log_density)
    model = make_model(network, PREDICTIONS[kind], batched=False)
    size, steps = 32, 400
    options = {"weight": weight, "times": times.objective(capped)}

    def run(maker):
        loss = maker(model, sde, size, **options)

        def step(seed):
            data = batch_of(size) | {"x": jax.vmap(lambda k: truth.sample(k, plane()))(
                jax.random.split(jax.random.fold_in(KEY, seed), size))}  # fmt: skip
            key = jax.random.fold_in(jax.random.key(9), seed)
            return jax.value_and_grad(lambda p: jnp.mean(loss(p, key, data)[0]))(PARAMS)

        value, gradient = jax.jit(jax.vmap(step))(jnp.arange(steps))
        leaves = [np.asarray(leaf, float).reshape(steps, -1) for leaf in gradient.values()]
        return np.asarray(value, float), np.concatenate(leaves, axis=1)

    value, gradient = run(make_loss)
    assert np.max(np.abs(gradient.mean(axis=0))) > 0.1
    for name in names:
        other, slopes = run(MAKERS[name])
        gap = slopes - gradient
        error = gap.std(axis=0) / np.sqrt(steps)
        bias = 0.01 * np.abs(gradient.mean(axis=0)) * (name == "finite_difference")
        assert np.all(np.abs(gap.mean(axis=0)) <= 5 * error + bias + 1e-6), name
        offset = 0.0 if name == "second_order" else mean_weight(sde, capped, weight)
        gap = value - other
        error = gap.std() / np.sqrt(steps)
        assert abs(gap.mean() - offset) <= 5 * error + 0.01 * offset, name


def mean_weight(sde, density, weight):
    """The mean of w(t) itself: the tables hold alpha^2 w."""
    u = (jnp.arange(4000) + 0.5) / 4000

    def w(u):
        c = coefficients(sde, density.quantile(u))
        return weight(c) / c.alpha**2

    return float(jnp.mean(jax.vmap(w)(u)))


FEW = [
    name if name in ("sliced", "second_order") else pytest.param(name, marks=pytest.mark.slow)
    for name in MAKERS
]


@pytest.mark.parametrize("name", FEW)
def test_losses_do_not_depend_on_the_split_or_on_the_devices(name):
    model = make_model(network, PREDICTIONS["v"], batched=False)
    loss = jax.jit(MAKERS[name](model, processes.vp(), 16, weight=weights.likelihood))
    batch = batch_of(16)
    whole, aux = loss(PARAMS, KEY, batch)
    assert whole.shape == (16,)
    assert aux == {}
    half = jax.tree.map(lambda leaf: leaf[8:], batch)
    np.testing.assert_allclose(whole[8:], loss(PARAMS, KEY, half)[0], rtol=1e-4, atol=1e-5)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
    over_devices, _ = loss(PARAMS, KEY, spread)
    assert len(over_devices.sharding.device_set) == 8
    np.testing.assert_allclose(whole, over_devices, rtol=1e-4, atol=1e-5)
    assert np.all(loss(PARAMS, jax.random.key(1), batch)[0] != whole)


def test_times_and_noise_are_those_of_denoising():
    """Of first order alone the second-order objective is the denoising loss, example by example."""
    batch = batch_of(32) | {"label": jnp.arange(32) % 3}
    options = {"weight": weights.flow, "label_drop": 0.5, "null_label": 3}
    for kind in ("v", "x0"):
        model = make_model(network, PREDICTIONS[kind], batched=False)
        ours, theirs = (
            jax.jit(maker(model, processes.vp(), 32, **options))(PARAMS, KEY, batch)[0]
            for maker in (losses.second_order(0.0), make_loss)
        )
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_dropout_is_one_mask_for_all_tangents():
    """A network that drops all or nothing by its key: with all dropped the loss is exactly 0."""

    def train(params, x, t, cond, key):
        return x * jax.random.bernoulli(key, 0.5) / 1.0

    model = make_model(network, PREDICTIONS["eps"], batched=False, train_apply_fn=train)
    for maker in (losses.sliced(4), losses.finite_difference(probes=4)):
        loss = jax.jit(maker(model, processes.vp(), 512))
        found = np.asarray(loss(PARAMS, KEY, batch_of(512))[0])
        assert 0.3 < np.mean(found == 0.0) < 0.7


@pytest.mark.parametrize("name", FEW)
def test_singular_times_count_nothing(name):
    """An eps network at alpha = 0 and at sigma = 0, with finite gradients."""
    sde = processes.rectified_flow()
    model = make_model(network, PREDICTIONS["eps"], batched=False)
    for t in (0.0, 1.0):
        fixed = times.TimeDensity(lambda u, t=t: jnp.full_like(u, t), jnp.zeros_like)
        loss = MAKERS[name](model, sde, 4, times=times.objective(fixed))
        summed = lambda p, f=loss: jnp.sum(f(p, KEY, batch_of(4))[0])  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(summed))(PARAMS)
        assert value == 0.0
        assert all(np.all(leaf == 0.0) for leaf in gradient.values())


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"step=0.0; expected a positive number"):
        losses.finite_difference(step=0.0)
    with pytest.raises(ValueError, match="probes=-1"):
        losses.second_order(probes=-1)
    model = make_model(network, PREDICTIONS["v"], batched=False)
    with pytest.raises(ValueError, match=r"label_drop=1.5; expected a probability"):
        losses.sliced()(model, processes.vp(), 4, label_drop=1.5, null_label=0)
