import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax.likelihood.dequantisation import (
    Dequantiser,
    context_of,
    discrete_bound,
    noise_flow,
    uniform,
    variational,
)
from sdejax.likelihood.quantisation import log_det, quantisation, to_continuous
from sdejax.nets.dequantiser import NoiseConditioner, init_noise_network, noise_network

KEY = jax.random.key(0)
Q = quantisation(3.5, 3.5, 8)


def network(params, x, context, mask):
    """One hidden layer over all that it is shown."""
    first, second = params
    h = jnp.tanh(first @ jnp.concatenate([x.ravel(), context.ravel(), mask.ravel()]))
    shift, raw = jnp.split(second @ h, 2)
    return shift.reshape(x.shape), raw.reshape(x.shape)


def learned(size, scale=1.0, layers=4):
    """Parameters that are away from uniform noise, for events of so many entries."""
    keys = jax.random.split(jax.random.key(1), (layers, 2))
    return tuple(
        (jax.random.normal(a, (8, 3 * size)), scale * jax.random.normal(b, (2 * size, 8)) / 8**0.5)
        for a, b in keys
    )


def exponential(rate):
    """A density that is exponential in every entry: skewed, and integrable in closed form."""
    return lambda key, y: jnp.sum(jnp.log(rate) - rate * (y + 2.0))


def log_mass(rate, k):
    """log P(k) of it: bins of width 1/3.5 in closed form."""
    low, high = (k - 4.0) / 3.5 + 2.0, (k - 3.0) / 3.5 + 2.0
    return float(np.sum(np.log(np.exp(-rate * low) - np.exp(-rate * high))))


@pytest.mark.parametrize("shape", [(3,), (4, 2, 2), ()])
def test_an_untrained_flow_is_uniform_noise(shape):
    module = NoiseConditioner(4, depth=1)
    deq, params = (
        variational(noise_network(module), 8, 2),
        init_noise_network(KEY, module, shape, 2),
    )
    k = jnp.ones(shape, int)
    u, log_q = jax.jit(jax.vmap(deq.draw, (None, 0, None)))(params, jax.random.split(KEY, 4096), k)
    assert u.shape == (4096, *shape)
    np.testing.assert_allclose(log_q, 0.0, atol=2e-5)
    for power in (1, 2, 3):
        assert_mean(u**power, 1 / (power + 1))
    plain, nothing = uniform().draw(None, KEY, k)
    assert plain.shape == shape
    assert float(nothing) == 0.0


def test_the_density_of_the_noise_is_the_one_that_is_reported(x64):
    """E_q[f(u)/q(u)] is the integral of f, 1 for products of beta densities; so q integrates to 1.

    And log q(u) is that of the inverse map.
    """
    params, k = learned(2), jnp.asarray([2, 6])
    flow, deq = noise_flow(network, (2,)), variational(network, 8)
    context = context_of(8, k, float)
    np.testing.assert_allclose(context, [2 * 2 / 7 - 1, 2 * 6 / 7 - 1], rtol=1e-12)

    def one(key):
        u, log_q = deq.draw(params, key, k)
        z, stretch = flow.inverse(params, u, context)
        return u, log_q, jnp.sum(jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)) + stretch

    u, log_q, by_inverse = jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000))
    inside = jnp.all((u > 1e-6) & (u < 1 - 1e-6), axis=-1)
    np.testing.assert_allclose(by_inverse[inside], log_q[inside], rtol=1e-6, atol=1e-6)
    assert float(jnp.std(log_q)) > 0.5  # far from uniform
    beta = jax.scipy.stats.beta.pdf
    for a, b in ((2.0, 4.0), (4.0, 2.0), (3.0, 3.0)):
        f = beta(u[:, 0], a, b) * beta(u[:, 1], b, a)
        assert_mean(f / jnp.exp(log_q), 1.0)


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_bounds_against_a_mass_in_closed_form(x64, kind):
    """log P >= K-sample bound >= one-sample bound, which has its own closed form for uniform."""
    rate, k = 4.0, jnp.asarray([1, 5, 2])
    exact, density = log_mass(rate, np.asarray(k)), exponential(rate)
    deq, params = uniform(), None
    if kind == "variational":
        deq, params = variational(network, 8), learned(3)

    def bounds(key, samples):
        return discrete_bound(key, density, Q, k, dequantiser=deq, params=params, samples=samples)

    keys = jax.random.split(KEY, 4000)
    of = jax.jit(jax.vmap(bounds, (0, None)), static_argnums=1)
    found, many = of(keys, 4), np.asarray(of(keys[:60], 400).log_p)
    one, four = np.asarray(found.log_weights[:, 0]), np.asarray(found.log_p)
    if kind == "uniform":
        middle = density(None, to_continuous(Q, k, jnp.full((3,), 0.5))) + log_det(Q, (3,))
        assert_mean(one, float(middle))  # the density is log-linear
    gain = four - one
    assert gain.mean() > 5 * gain.std() / np.sqrt(4000)
    assert exact - four.mean() > 5 * four.std() / np.sqrt(4000)
    # exp of the K-sample bound is unbiased, whatever K is.
    assert_mean(np.exp(four - exact), 1.0)
    assert_mean(np.exp(many - exact), 1.0)
    # What it still loses with K weights is half their relative variance over K.
    assert_mean(many + np.var(np.exp(one - exact)) / (2 * 400), exact)
    np.testing.assert_allclose(found.bits_per_dim, -four / (3 * np.log(2)), rtol=1e-12)
    mean = np.mean(np.exp(np.asarray(found.log_weights)), axis=1)
    np.testing.assert_allclose(four, np.log(mean), rtol=1e-12)


def test_the_best_noise_makes_the_bound_an_equality(x64):
    """q = p's posterior in the bin (truncated exponentials): one sample gives log P exactly."""
    rate, k = 4.0, jnp.asarray([1, 5, 2])
    step = rate / 3.5  # by which log p falls over a bin
    mass = 1 - np.exp(-step)

    def draw(params, key, k):
        u = -jnp.log1p(-jax.random.uniform(key, k.shape) * mass) / step
        return u, jnp.sum(np.log(step / mass) - step * u)

    def bound(key):
        return discrete_bound(key, exponential(rate), Q, k, dequantiser=Dequantiser(draw)).log_p

    found = jax.jit(jax.vmap(bound))(jax.random.split(KEY, 64))
    np.testing.assert_allclose(found, log_mass(rate, np.asarray(k)), rtol=1e-12)


def test_a_noisy_density_keeps_one_sample_a_bound_and_spoils_many(x64):
    """What the module warns of, measured: log p + s N(0, 1) has an exponential s^2/2 too large."""
    rate, k, spread = 4.0, jnp.asarray([3, 3]), 1.5
    exact = log_mass(rate, np.asarray(k))

    def noisy(key, y):
        return exponential(rate)(key, y) + spread * jax.random.normal(key)

    def bounds(key, samples):
        return discrete_bound(key, noisy, Q, k, samples=samples).log_p

    of = jax.jit(jax.vmap(bounds, (0, None)), static_argnums=1)
    one = of(jax.random.split(KEY, 4000), 1)
    many = np.asarray(of(jax.random.split(KEY, 200), 400))
    plain = -rate * (2 * (3 / 3.5 - 1 + 2)) + 2 * np.log(rate) - 2 * np.log(3.5)
    assert plain < exact
    assert_mean(one, plain)
    assert many.mean() > exact + 0.5


def test_samples_have_keys_of_their_own_and_chunks_change_nothing():
    k, density = jnp.asarray([[1, 2], [3, 4]]), exponential(2.0)

    def weights(samples, chunk=None):
        bound = jax.jit(
            lambda key: discrete_bound(key, density, Q, k, samples=samples, chunk=chunk)
        )
        return np.asarray(bound(KEY).log_weights)

    whole = weights(64)
    assert len(np.unique(whole)) == 64
    np.testing.assert_allclose(weights(7, 3), whole[:7], rtol=1e-6)
    density = lambda key, y: jax.random.uniform(key)  # noqa: E731
    assert len(np.unique(weights(8))) == 8  # what draws anew for each
    for samples, chunk in ((0, None), (2, 0)):
        with pytest.raises(ValueError, match=f"samples={samples}, chunk={chunk}; .* at least 1"):
            discrete_bound(KEY, density, Q, k, samples=samples, chunk=chunk)
    with pytest.raises(ValueError, match="layers: got 0"):
        noise_flow(network, (2,), layers=0)


def test_a_batch_is_a_vmap_and_gradients_reach_the_parameters():
    """Reparametrised: the gradient of a mean over common keys is that by finite differences."""
    deq, ks = variational(network, 8), jnp.asarray([[0, 7], [3, 4], [6, 1]])
    params, keys = learned(2), jax.random.split(KEY, 3)

    @jax.jit
    def bound(params, key, k):
        density = exponential(3.0)
        found = discrete_bound(key, density, Q, k, dequantiser=deq, params=params, samples=2)
        assert found.log_p.shape == found.bits_per_dim.shape == ()
        return found.log_p

    @jax.jit
    def mean(params):
        return jnp.mean(jax.vmap(bound, (None, 0, 0))(params, keys, ks))

    each = [bound(params, key, k) for key, k in zip(keys, ks, strict=True)]
    np.testing.assert_allclose(mean(params), np.mean([float(b) for b in each]), rtol=1e-5)
    with jax.enable_x64(True):
        wide = jax.tree.map(jnp.float64, params)
        gradient = jax.jit(jax.grad(mean))(wide)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))

        def along(step):
            return mean(jax.tree.map(lambda p, g: p + step * g / norm, wide, gradient))

        slope = (along(1e-4) - along(-1e-4)) / 2e-4
        np.testing.assert_allclose(slope, norm, rtol=1e-5)
        assert float(norm) > 0.01
