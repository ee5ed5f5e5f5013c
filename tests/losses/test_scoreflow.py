"""Likelihood weighting and its importance-sampled times, held against what they are for.

Under one process the divergence of two densities falls with time by half of Fisher's,

    KL(p_s | q_s) - KL(p_t | q_t) = int_s^t g^2/2 E_p |grad log p - grad log q|^2 dt,

so with the score of q for a network and data from p, the likelihood-weighted loss less that of the
score of p is a difference of two divergences, which for Gaussians are closed forms.

Reference: Song et al. 2021, arXiv:2101.09258, eq. 7, theorem 1 and section 5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES, PUBLISHED, interior

from sdejax import processes, times, truth, weights
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.losses import make_loss
from sdejax.prediction import encode, eps
from sdejax.sde import coefficients

P = np.asarray([1.0, -2.0]), np.asarray([0.5, 2.0])  # means and standard deviations
Q = np.asarray([0.6, -1.7]), np.asarray([0.8, 1.5])


def divergence(sde, t):
    """KL(p_t | q_t) of the two noised Gaussians, in nats."""
    c = coefficients(sde, t)
    a, s = float(c.alpha), float(c.sigma)
    (m, v), (n, w) = ((a * mean, (a * std) ** 2 + s**2) for mean, std in (P, Q))
    return 0.5 * np.sum(v / w - 1 - np.log(v / w) + (m - n) ** 2 / w)


def gaussian(parts):
    mean, std = (jnp.asarray(part, jnp.float32) for part in parts)
    return truth.gaussian(mean, jnp.diag(std**2))


@pytest.mark.parametrize("name", [n for n in PROCESSES if n != "rectified_flow"])  # infinite at t=1
def test_the_importance_density_is_g_squared_over_sigma_squared(name, x64):
    """p(t) sigma^2/g^2, by the published formulas, is one number; and p integrates to 1."""
    sde, published = PROCESSES[name](), PUBLISHED[name]
    ts = interior(name, 25)
    density = times.uniform_log_snr(sde)
    log_p = jax.jit(jax.vmap(density.log_density))(jnp.asarray(ts))
    long = ts.astype(np.longdouble)
    ratio = np.exp(np.asarray(log_p)) * (published.sigma(long) / published.g(long)) ** 2
    np.testing.assert_allclose((ratio / ratio[0]).astype(float), 1.0, rtol=1e-8)
    # Its constant: one over the integral of g^2/sigma^2, which is the fall of the log-SNR.
    ends = np.asarray([sde.t_min, sde.t_max], np.longdouble)
    snr = 2 * np.log(published.alpha(ends) / published.sigma(ends))
    np.testing.assert_allclose(float(ratio[0]), float(1 / (snr[0] - snr[1])), rtol=1e-8)


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_the_weighted_loss_is_a_difference_of_divergences(name):
    """With importance-sampled times, and with uniform ones, which spread more."""
    sde = {"vp": processes.vp(t_min=0.01), "ve": processes.ve(0.1, 10.0)}[name]
    width, d, n = float(sde.t_max - sde.t_min), 2, 40_000
    uniform, proposal = times.uniform(sde), times.uniform_log_snr(sde)
    samplings = {
        "uniform": times.objective(uniform),
        "importance": times.importance(proposal, uniform),
    }
    x = jax.vmap(lambda key: truth.sample(key, gaussian(P)))(jax.random.split(jax.random.key(1), n))
    batch = {"x": x, "position": jnp.arange(n)}

    def losses_of(parts, sampling):
        def network(params, x, t, cond):
            return encode(eps, coefficients(sde, t), truth.estimate(gaussian(parts), sde, x, t))

        model = make_model(network, eps, batched=False, scaling=no_scaling, conditioning=raw_time)
        loss = make_loss(model, sde, n, times=sampling, weight=weights.likelihood)
        return np.asarray(jax.jit(loss)(None, jax.random.key(0), batch)[0], float)

    expected = divergence(sde, sde.t_min) - divergence(sde, sde.t_max)
    assert expected > 0.1
    spread = {}
    for kind, sampling in samplings.items():
        own = losses_of(P, sampling)
        gap = d * width * (losses_of(Q, sampling) - own)
        error = gap.std() / np.sqrt(n)
        assert abs(gap.mean() - expected) <= 5 * error, (kind, gap.mean(), expected, error)
        spread[kind] = own.std()
    if name == "vp":  # 0.54 times; the weight of VE is nearly constant in t
        assert spread["importance"] < 0.7 * spread["uniform"]
