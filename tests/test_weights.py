import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, PROCESSES, PUBLISHED, interior

from sdejax import weights
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.losses import denoising_loss
from sdejax.prediction import Estimate, encode
from sdejax.sde import coefficients

WEIGHTS = {
    "simple": weights.simple,
    "likelihood": weights.likelihood,
    "flow": weights.flow,
    "edm": weights.edm(0.7),
    "min_snr": weights.min_snr(5.0),
    "sigmoid": weights.sigmoid(2.0),
}


def reference(name, published, t):
    """w on |eps_hat - eps|^2, from the papers; lambda' by g^2 = -sigma^2 lambda'."""
    alpha, sigma = published.alpha(t), published.sigma(t)
    f, g = published.f(t), published.g(t)
    snr, slope = (alpha / sigma) ** 2, -(g**2) / sigma**2
    return {
        "simple": np.ones_like(t),
        "likelihood": g**2 / (2 * sigma**2),
        # The error of f x - g^2 score / 2, whose score is -eps/sigma.
        "flow": (g**2 / (2 * sigma)) ** 2 + 0 * f,
        "edm": 1 + sigma**2 / (alpha**2 * np.longdouble(0.7) ** 2),
        "min_snr": np.minimum(1, 5 / snr),
        "sigmoid": -slope / (1 + snr * np.exp(np.longdouble(-2))),
    }[name]


@pytest.mark.parametrize("name", PROCESSES)
def test_weights_are_the_published_ones(name, x64):
    sde, published = PROCESSES[name](), PUBLISHED[name]
    ts = interior(name, 12)

    def all_weights(t):
        c = coefficients(sde, t)
        return {key: weight(c) / c.alpha**2 for key, weight in WEIGHTS.items()}

    for key, values in jax.jit(jax.vmap(all_weights))(jnp.asarray(ts)).items():
        expected = reference(key, published, ts.astype(np.longdouble)).astype(float)
        np.testing.assert_allclose(values, expected, rtol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", PROCESSES)
def test_products_with_alpha_squared_are_finite_at_both_ends_in_float32(name):
    sde = PROCESSES[name]()
    for t in (sde.t_min, sde.t_max):
        c = coefficients(sde, t)
        for key, weight in WEIGHTS.items():
            assert np.isfinite(weight(c)), key
            assert weight(c) >= 0, key


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sub_vp", "edm")]


@pytest.mark.parametrize("process", ["vp", "rectified_flow", *SLOW])
def test_gradients_at_the_same_noise_agree_over_all_predictions(process, x64):
    """A network whose output encodes eps_hat = eps + theta has one gradient whatever it predicts.

    The loss is w |theta|^2 / d, with gradient 2 w theta / d.
    """
    sde, published = PROCESSES[process](), PUBLISHED[process]
    rng = np.random.default_rng(0)
    x0, eps, theta = jnp.asarray(rng.normal(size=(3, 4)))
    times = jnp.asarray(np.quantile(interior(process, 8), [0.2, 0.5, 0.8]))

    def loss(theta, t, kind, weight):
        c = coefficients(sde, t)

        def network(params, x, _, cond):
            off = eps + params  # and the x0 that goes with it at the same x_t
            return encode(kind, c, Estimate((x - c.sigma * off) / c.alpha, off))

        model = make_model(network, kind, batched=False, scaling=no_scaling, conditioning=raw_time)
        key = jax.random.key(0)
        return denoising_loss(key, model, theta, sde, x0, eps, t, weight=weight)[0]

    def gradients(theta, t):
        return {
            (w, k): jax.value_and_grad(loss)(theta, t, kind, weight)
            for w, weight in WEIGHTS.items()
            for k, kind in PREDICTIONS.items()
        }

    out = jax.jit(jax.vmap(gradients, in_axes=(None, 0)))(theta, times)
    for (w, k), (value, gradient) in out.items():
        expected = reference(w, published, np.asarray(times, np.longdouble)).astype(float)
        np.testing.assert_allclose(value, expected * np.mean(theta**2), rtol=1e-7, err_msg=w + k)
        np.testing.assert_allclose(
            gradient, expected[:, None] * np.asarray(theta) * 2 / 4, rtol=1e-7, err_msg=w + k
        )
