import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, plane
from score_family import SIGMA, draw, params, score

from sdejax import losses, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.divergence import exact
from sdejax.prediction import encode
from sdejax.sde import coefficients

KEY = jax.random.key(0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_score_of_an_exact_model_is_that_of_the_data(kind, x64):
    """For any prediction; with a key it is the network in training that is asked."""
    sde, dist, t, x = processes.vp(), plane(), 0.3, jnp.asarray([0.4, -1.3])

    def network(params, x, t, cond):
        return encode(PREDICTIONS[kind], coefficients(sde, t), truth.estimate(dist, sde, x, t))

    model = make_model(
        network, PREDICTIONS[kind], batched=False, scaling=no_scaling, conditioning=raw_time,
        train_apply_fn=lambda *args: 0.0 * args[1] + jnp.nan,
    )  # fmt: skip
    found = losses.model_score(model, None, sde, t)(x)
    np.testing.assert_allclose(found, truth.score(dist, sde, x, t), rtol=1e-9)
    assert np.all(np.isnan(losses.model_score(model, None, sde, t, key=KEY)(x)))


def test_the_condition_reaches_the_network(strict):
    model = make_model(lambda p, x, t, cond: x * cond, PREDICTIONS["score"], batched=False,
                       scaling=no_scaling)  # fmt: skip
    score_fn = losses.model_score(model, None, processes.vp(), 0.3, jnp.float32(3.0))
    np.testing.assert_allclose(score_fn(jnp.ones(2)), 3.0, rtol=1e-6)


def test_the_implicit_loss_is_its_formula(x64):
    """On an event of two axes as on a vector."""
    theta, x = params(1), jnp.asarray([0.3, -0.7])
    jacobian = jax.jacfwd(lambda x: score(theta, x))(x)
    expected = 0.5 * np.sum(score(theta, x) ** 2) + np.trace(jacobian)
    found = losses.implicit_loss(KEY, lambda x: score(theta, x), x, exact())
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    picture = lambda x: score(theta, x[:, 0])[:, None]  # noqa: E731
    np.testing.assert_allclose(losses.implicit_loss(KEY, picture, x[:, None]), expected, rtol=1e-12)


def test_one_level_is_the_denoising_loss_of_a_process(x64):
    """2 sigma^2 / d of it is the loss of a score network under x = x0 + t eps at t = sigma."""
    theta = params(1)
    x0, eps = (jnp.asarray(part[0]) for part in draw("mixture", 1))
    model = make_model(lambda p, x, t, cond: score(p, x), PREDICTIONS["score"], batched=False,
                       scaling=no_scaling)  # fmt: skip
    over_levels, _ = losses.denoising_loss(KEY, model, theta, processes.edm(), x0, eps, SIGMA)
    found = losses.denoising_score_loss(lambda x: score(theta, x), x0, eps, SIGMA)
    np.testing.assert_allclose(2 * SIGMA**2 / 2 * found, over_levels, rtol=1e-12)


def test_the_explicit_loss_vanishes_at_the_truth_alone(x64):
    sde, dist, x = processes.vp(), plane(), jnp.asarray([0.4, -1.3])
    target = jax.grad(lambda x: truth.log_prob(dist, sde, x, 0.2))
    exact_score = lambda x: truth.score(dist, sde, x, 0.2)  # noqa: E731
    assert losses.explicit_loss(exact_score, target, x) < 1e-20
    off = losses.explicit_loss(lambda x: exact_score(x) + 0.1, target, x)
    np.testing.assert_allclose(off, 0.5 * 2 * 0.1**2, rtol=1e-9)
