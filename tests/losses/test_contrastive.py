import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from oracles import skewed
from stats import assert_mean

from sdejax import losses

WEIGHTS, MEANS, COVS = (np.asarray(part, float).ravel() for part in skewed(float))
NOISE_MEAN, NOISE_STD = 0.3, 2.5


def data_density(x):
    return sum(
        w * scipy.stats.norm.pdf(x, m, np.sqrt(v))
        for w, m, v in zip(WEIGHTS, MEANS, COVS, strict=True)
    )


def noise_density(x):
    return scipy.stats.norm.pdf(x, NOISE_MEAN, NOISE_STD)


def noise_log_prob(x):
    return jnp.sum(jax.scipy.stats.norm.logpdf(x, NOISE_MEAN, NOISE_STD))


# A mixture that is not normalised: exp(a - (x - m)^2 / 2v) + exp(b - (x - n)^2 / 2w), less log_z.
TRUTH = {
    "heights": np.log(WEIGHTS / np.sqrt(COVS)) + 1.7,
    "means": MEANS,
    "log_variances": np.log(COVS),
    "log_z": np.asarray(0.5 * np.log(2 * np.pi) + 1.7),
}


def log_model(theta, x):
    square = (x[0] - theta["means"]) ** 2 * jnp.exp(-theta["log_variances"])
    return jax.nn.logsumexp(theta["heights"] - 0.5 * square) - theta["log_z"]


def population(theta, n=261, span=(-16.0, 16.0)):
    """The mean loss for nu = 1, by a sum over pairs of data and noise."""
    x = np.linspace(*span, n)
    p, q = (jnp.asarray(density(x) * (x[1] - x[0])) for density in (data_density, noise_density))
    points = jnp.asarray(x)[:, None]

    def loss(x, y):
        return losses.contrastive_loss(lambda z: log_model(theta, z), noise_log_prob, x, y[None])

    return p @ jax.vmap(jax.vmap(loss, (None, 0)), (0, None))(points, points) @ q


def test_at_the_truth_the_loss_is_the_classification_entropy(x64):
    """2 log 2 - 2 JSD(p, q), by SciPy's adaptive quadrature."""

    def entropy(x):
        p, q = data_density(x), noise_density(x)
        total = np.log(p + q)
        return sum(r * (total - np.log(r)) for r in (p, q) if r > 0)

    expected, _ = scipy.integrate.quad(entropy, -16.0, 16.0, epsabs=1e-11, limit=400)
    found = population({k: jnp.asarray(v) for k, v in TRUTH.items()})
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_minimum_is_the_log_density_with_its_constant(x64):
    """Newton's method from away finds all of it; one height is held, log_z being free."""

    def unpack(v):
        heights = jnp.stack([v[5], jnp.asarray(TRUTH["heights"][1])])
        return {"heights": heights, "means": v[:2], "log_variances": v[2:4], "log_z": v[4]}

    truth = np.r_[TRUTH["means"], TRUTH["log_variances"], TRUTH["log_z"], TRUTH["heights"][0]]
    loss = lambda v: population(unpack(v))  # noqa: E731
    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    v = jnp.asarray(truth + 0.15 * np.asarray([1.0, -1.0, 1.0, 1.0, -1.0, 1.0]))
    for _ in range(8):
        v = v - jnp.linalg.solve(hessian(v), gradient(v))
    np.testing.assert_allclose(v, truth, atol=1e-7)
    x = np.linspace(-3.0, 4.0, 29)
    found = jax.vmap(lambda x: log_model(unpack(v), x))(jnp.asarray(x)[:, None])
    np.testing.assert_allclose(found, np.log(data_density(x)), atol=1e-6)


@pytest.mark.parametrize("nu", [1, 5])
def test_the_gradient_vanishes_at_the_truth_for_any_noise_ratio(nu):
    """On draws, in float32 under jit and vmap; away from it it does not."""
    n, rng = 20_000, np.random.default_rng(0)
    k = rng.choice(2, size=n, p=WEIGHTS)
    x = (MEANS[k] + np.sqrt(COVS[k]) * rng.standard_normal(n)).astype(np.float32)[:, None]
    y = rng.normal(NOISE_MEAN, NOISE_STD, (n, nu, 1)).astype(np.float32)
    theta = {k: jnp.asarray(v, jnp.float32) for k, v in TRUTH.items()}

    def loss(theta, x, y):
        return losses.contrastive_loss(lambda z: log_model(theta, z), noise_log_prob, x, y)

    slopes = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))
    for entry in slopes(theta, x, y).values():
        assert_mean(entry, 0.0)
    off = slopes(theta | {"log_z": theta["log_z"] + 0.2}, x, y)["log_z"]
    assert np.mean(off) > 10 * np.std(off) / np.sqrt(n)  # too small a density: log_z has to fall


def test_densities_far_apart_are_finite(strict):
    """At logits of a thousand the loss is a thousand or nothing, and so is its gradient finite."""

    def loss(shift):
        return losses.contrastive_loss(
            lambda z: shift - jnp.sum(z), lambda z: jnp.sum(z), jnp.ones(1), jnp.ones((2, 1))
        )

    for shift in (-1000.0, 1000.0):
        value, gradient = jax.value_and_grad(loss)(jnp.float32(shift))
        assert np.isfinite(value)
        assert np.isfinite(gradient)


def test_some_noise_is_needed():
    with pytest.raises(ValueError, match="got 0 draws of noise"):
        losses.contrastive_loss(jnp.sum, jnp.sum, jnp.ones(2), jnp.ones((0, 2)))
