import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import PREDICTIONS, skewed
from stats import assert_mean

from sdejax import processes, times, truth, weights
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_denoiser, make_model, no_scaling
from sdejax.losses import denoising_loss, make_loss
from sdejax.prediction import encode
from sdejax.sde import coefficients

KEY = jax.random.key(0)
MEAN, COV = np.asarray([1.0, -2.0], np.float32), np.diag(np.asarray([0.25, 4.0], np.float32))


def exact_model(dist, sde, kind):
    """A perfect network of one prediction type; it sees x_t and t as they are."""

    def network(params, x, t, cond):
        return encode(kind, coefficients(sde, t), truth.estimate(dist, sde, x, t))

    return make_model(network, kind, batched=False, scaling=no_scaling, conditioning=raw_time)


SLOW = pytest.param("velocity", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["eps", SLOW])
def test_the_loss_at_the_posterior_mean_is_the_irreducible_one(kind):
    """For N(m, S^2): E|eps_hat - eps|^2 = sum_i alpha^2 S_i^2 / (alpha^2 S_i^2 + sigma^2)."""
    sde = processes.sub_vp()
    dist = truth.gaussian(jnp.asarray(MEAN), jnp.asarray(COV))
    model = exact_model(dist, sde, PREDICTIONS[kind])
    weight, n = weights.edm(0.7), 16_384

    def one(key, t):
        data_key, noise_key, loss_key = jax.random.split(key, 3)
        x0, eps = truth.sample(data_key, dist), jax.random.normal(noise_key, (2,))
        return denoising_loss(loss_key, model, None, sde, x0, eps, t, weight=weight)[0]

    losses = jax.jit(jax.vmap(one, in_axes=(0, None)))
    for t in (0.02, 0.3, 0.8):
        c = coefficients(sde, t)
        a, s = float(c.alpha) ** 2 * np.diag(COV), float(c.sigma) ** 2
        expected = np.mean(a / (a + s)) * (1 + s / (0.49 * float(c.alpha) ** 2))
        assert_mean(losses(jax.random.split(KEY, n), jnp.float32(t)), expected)


def linear(params, x, t, cond):
    return params["scale"] * x + (0.0 if cond is None else cond.astype(x.dtype))


def batch_of(n):
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return {"x": jnp.asarray(x), "position": jnp.arange(n)}


PARAMS = {"scale": jnp.float32(0.5)}


def test_one_network_call_an_example():
    calls = []

    def network(params, x, t, cond):
        jax.debug.callback(lambda _: calls.append(1), t)
        return x

    model = make_model(network, PREDICTIONS["eps"], batched=False)
    denoising_loss(KEY, model, None, processes.vp(), jnp.ones(2), jnp.ones(2), jnp.float32(0.4))
    jax.effects_barrier()
    assert len(calls) == 1


def test_losses_do_not_depend_on_the_split_or_on_the_devices():
    model = make_model(linear, PREDICTIONS["v"], batched=False)
    loss = jax.jit(make_loss(model, processes.vp(), 16, weight=weights.likelihood))
    batch = batch_of(16)
    whole, aux = loss(PARAMS, KEY, batch)
    assert whole.shape == aux["output_mse"].shape == (16,)
    parts = [
        loss(PARAMS, KEY, jax.tree.map(lambda leaf, k=k: leaf[k : k + 4], batch))[0]
        for k in range(0, 16, 4)
    ]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-5)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
    over_devices, _ = loss(PARAMS, KEY, spread)
    assert len(over_devices.sharding.device_set) == 8
    np.testing.assert_allclose(whole, over_devices, rtol=1e-5)
    # Another key, another position: other noise.
    assert np.all(loss(PARAMS, jax.random.key(1), batch)[0] != whole)
    moved = batch | {"position": jnp.arange(16)[::-1]}
    assert np.all(loss(PARAMS, KEY, moved)[0] != whole)


def mixed(params, x, t, cond, key=None):
    """Batch first: a convolution along the event, a normalisation of each row, and dropout."""
    seen.append(x.shape)
    h = jnp.sum(params["kernel"] * jnp.stack([x, jnp.roll(x, 1, axis=1)], axis=-1), axis=-1)
    h = jnp.tanh(h / (1 + jnp.std(h, axis=1, keepdims=True)) + t[:, None])
    return h if key is None else h * jax.random.bernoulli(key, 0.5, x.shape)


seen = []


@pytest.mark.parametrize("draws", [False, True])
def test_a_batch_first_network_is_called_once_unless_it_draws(draws):
    """Losses and gradients are those of example after example, dropout masks included."""
    undrawn = lambda params, x, t, cond, key: mixed(params, x, t, cond)  # noqa: E731
    model = make_model(
        mixed, PREDICTIONS["v"], batched=True, train_apply_fn=mixed if draws else undrawn
    )
    params, batch = {"kernel": jnp.asarray([0.7, -0.4])}, batch_of(6)

    def loss(model):
        function = make_loss(model, processes.vp(), 6)
        losses = lambda p, key: function(p, key, batch)  # noqa: E731
        return jax.jit(losses), jax.jit(jax.vmap(jax.jacrev(losses, has_aux=True), (None, 0)))

    losses, gradients = loss(model)
    each, each_gradients = loss(model._replace(batch_train_apply=None))
    seen.clear()
    got, aux = losses(params, KEY)
    assert seen[-1] == ((1, 2) if draws else (6, 2))
    want, want_aux = each(params, KEY)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(aux["output_mse"], want_aux["output_mse"], rtol=1e-6)
    keys = jax.random.split(KEY, 2)
    got, want = (f(params, keys)[0]["kernel"] for f in (gradients, each_gradients))
    assert got.shape == (2, 6, 2)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_every_example_has_its_own_dropout():
    """A network that outputs 1e3 or 0 by its key: the losses of a batch show which."""

    def network(params, x, t, cond, key=None):
        return 1e3 * jax.random.bernoulli(key, 0.5, (x.shape[0], 1)) + 0 * x

    model = make_model(network, PREDICTIONS["eps"], batched=True, train_apply_fn=network)
    losses, _ = make_loss(model, processes.vp(), 256)(PARAMS, KEY, batch_of(256))
    assert_mean(np.asarray(losses > 1e5, float), 0.5)


def test_the_error_of_a_network_is_its_own():
    def broken(params, x, t, cond):
        raise ValueError("a network's own complaint")

    loss = make_loss(make_model(broken, PREDICTIONS["v"], batched=True), processes.vp(), 4)
    with pytest.raises(ValueError, match="own complaint"):
        loss(PARAMS, KEY, batch_of(4))


def test_labels_are_dropped_at_the_given_rate():
    """The loss of a network that returns its label tells which label it saw."""
    sde, n = processes.vp(), 8192
    model = make_model(
        lambda params, x, t, cond: jnp.where(cond == 7, 1e3, 0.0) + 0 * x,
        PREDICTIONS["eps"],
        batched=False,
    )
    batch = batch_of(n) | {"label": jnp.full((n,), 3)}
    for rate in (0.0, 0.2):
        loss = jax.jit(make_loss(model, sde, n, label_drop=rate, null_label=7))
        dropped = np.asarray(loss(PARAMS, KEY, batch)[0] > 1e5, float)
        if rate:
            assert_mean(dropped, rate)
            assert abs(np.corrcoef(dropped[1:], dropped[:-1])[0, 1]) < 5 / np.sqrt(n)
        else:
            assert dropped.sum() == 0


def test_label_drop_needs_a_probability_and_a_null_label():
    model = make_model(linear, PREDICTIONS["v"], batched=False)
    with pytest.raises(ValueError, match=r"label_drop=1.5; expected a probability"):
        make_loss(model, processes.vp(), 4, label_drop=1.5, null_label=0)
    with pytest.raises(ValueError, match=r"label_drop=0.1 without a null_label"):
        make_loss(model, processes.vp(), 4, label_drop=0.1)


@pytest.mark.slow
def test_importance_sampling_leaves_loss_and_gradient():
    """Through ``make_loss``, over many steps: same mean for both, and for an objective not."""
    sde = processes.vp()
    target = times.uniform(sde)
    model = make_model(linear, PREDICTIONS["eps"], batched=False)
    proposal = times.logit_normal(sde, -0.5, 1.5)

    def steps(sampling):
        loss = make_loss(model, sde, 32, times=sampling)

        def step(key):
            return jax.value_and_grad(lambda p: jnp.mean(loss(p, key, batch_of(32))[0]))(PARAMS)

        value, gradient = jax.jit(jax.vmap(step))(jax.random.split(KEY, 2400))
        return np.stack([value, gradient["scale"]], axis=1).astype(float)

    plain, weighted = steps(times.objective(target)), steps(times.importance(proposal, target))
    other = steps(times.objective(proposal))
    error = np.sqrt((plain.var(axis=0) + weighted.var(axis=0)) / 2400)
    assert np.all(np.abs(plain.mean(axis=0) - weighted.mean(axis=0)) <= 5 * error)
    assert np.any(np.abs(plain.mean(axis=0) - other.mean(axis=0)) > 10 * error)


def test_losses_are_finite_at_singular_times():
    """An eps network at alpha = 0 learns nothing there, without spoiling its gradient."""
    sde, model = processes.rectified_flow(), make_model(linear, PREDICTIONS["eps"], batched=False)

    def loss(params, t):
        return denoising_loss(KEY, model, params, sde, jnp.ones(2), jnp.ones(2), t)[0]

    for t in (0.0, 1.0):
        value, gradient = jax.value_and_grad(loss)(PARAMS, jnp.float32(t))
        assert np.isfinite(value)
        assert np.isfinite(gradient["scale"])


def test_training_finds_the_posterior_mean():
    """Three seeds on a mixture of two Gaussians: E|eps_hat - E[eps|x]|^2 against what is left.

    The excess error is at most 5 % of the irreducible loss.
    """
    sde = processes.vp(t_min=0.02)
    dist = truth.mixture(*map(jnp.asarray, skewed()))

    def init(key):
        sizes = [2, 64, 64, 1]
        keys = jax.random.split(key, 3)
        return [
            (jax.random.normal(k, (m, n)) / np.sqrt(m), jnp.zeros(n))
            for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]

    def network(params, x, t, cond):
        h = jnp.append(x, t)
        for w, b in params[:-1]:
            h = jax.nn.silu(h @ w + b)
        w, b = params[-1]
        return h @ w + b

    model = make_model(network, PREDICTIONS["v"], batched=False)
    size, steps = 256, 1500
    loss_fn = make_loss(model, sde, size)
    tx = optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    def train(key):
        init_key, key = jax.random.split(key)

        def step(carry, i):
            params, state = carry
            data_key, loss_key = jax.random.split(jax.random.fold_in(key, i))
            x = jax.vmap(lambda k: truth.sample(k, dist))(jax.random.split(data_key, size))
            batch = {"x": x, "position": jnp.arange(size)}
            gradient = jax.grad(lambda p: jnp.mean(loss_fn(p, loss_key, batch)[0]))(params)
            updates, state = tx.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        params = init(init_key)
        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[0][0]

    def errors(params, key):
        data_key, noise_key, time_key = jax.random.split(key, 3)
        x0, eps = truth.sample(data_key, dist), jax.random.normal(noise_key, (1,))
        t = times.uniform(sde).quantile(jax.random.uniform(time_key))
        c = coefficients(sde, t)
        x = c.alpha * x0 + c.sigma * eps
        exact = truth.estimate(dist, sde, x, t).eps
        excess = jnp.sum((make_denoiser(model, params, sde)(x, t).eps - exact) ** 2)
        return excess, jnp.sum((exact - eps) ** 2)

    params = jax.jit(jax.vmap(train))(jax.random.split(KEY, 3))
    keys = jax.random.split(jax.random.key(1), 8192)
    each = jax.jit(jax.vmap(jax.vmap(errors, in_axes=(None, 0)), in_axes=(0, None)))
    excess, left = (np.mean(part, axis=1) for part in each(params, keys))
    assert np.all(left > 0.05)
    assert np.all(excess <= 0.05 * left), excess / left
