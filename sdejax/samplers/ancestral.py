"""Memoryless samplers of one call a step: DDIM, DDPM, reverse diffusion, Euler-Maruyama.

With x_t = alpha x0 + sigma eps, each step from t to s < t is a sum of x_t, x0, eps and fresh noise
z with coefficients of the process alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdejax.dynamics import Noise, require_finite_noise
from sdejax.samplers.base import NoisyRow, Sampler, both_ends, linear_sampler
from sdejax.sde import SDE, diffusion
from sdejax.types import Times


def ddim(eta: float = 0.0) -> Sampler:
    """DDIM and, with eta = 1, DDPM's ancestral sampling, for any process.

    x_s = alpha_s x0 + sqrt(sigma_s^2 - tau^2) eps + tau z,
    tau^2 = eta^2 sigma_s^2 (1 - SNR_t/SNR_s), the posterior variance at eta = 1. At eta = 0 it is
    Euler's method for dy/dr = eps in y = x/alpha, r = sigma/alpha, of order 1.

    Args:
        eta: 0 deterministic, 1 ancestral.

    Returns:
        The sampler.

    Raises:
        ValueError: for eta outside [0, 1].

    Reference: Song et al. 2020, arXiv:2010.02502, eq. 12 and 16; Ho et al. 2020, arXiv:2006.11239,
    eq. 7.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"ddim: got eta={eta}; expected a number in [0, 1]")

    def prepare(sde: SDE, ts: Times) -> NoisyRow:
        t, s = both_ends(sde, ts)
        ratio = t.alpha * s.sigma / (s.alpha * t.sigma)
        fresh = 1.0 - ratio**2
        # eta stays outside of the roots, whose derivatives at 0 are infinite.
        kept = ratio if eta == 1.0 else jnp.sqrt(1.0 - eta**2 * fresh)
        noise = eta * s.sigma * jnp.sqrt(fresh) if eta else None
        return NoisyRow(ts[:-1], jnp.zeros_like(kept), s.alpha, s.sigma * kept, noise)

    return linear_sampler(prepare)


def ancestral() -> Sampler:
    """DDPM's ancestral sampling, ``ddim(eta=1)``."""
    return ddim(eta=1.0)


def reverse_diffusion() -> Sampler:
    """The reverse SDE discretised as the forward chain is: the predictor of score SDE.

    The forward step from s to t is x_t = k x_s + sqrt(v) z with k = alpha_t/alpha_s and
    v = sigma_t^2 - k^2 sigma_s^2; the reverse one is
    x_s = (2 - k) x_t + v score(x_t, t) + sqrt(v) z. Order 1 in distribution.

    Returns:
        The sampler.

    Reference: Song et al. 2021, arXiv:2011.13456, appendix E, eq. 46.
    """

    def prepare(sde: SDE, ts: Times) -> NoisyRow:
        t, s = both_ends(sde, ts)
        k = t.alpha / s.alpha
        variance = t.sigma**2 - (k * s.sigma) ** 2
        zero = jnp.zeros_like(k)
        return NoisyRow(ts[:-1], 2.0 - k, zero, -variance / t.sigma, jnp.sqrt(variance))

    return linear_sampler(prepare)


def euler_maruyama(noise: Noise = diffusion) -> Sampler:
    """Euler-Maruyama for ``dx = [v - w^2 score/2] dt + w dW``, t running down.

    Strong order 1, the noise being additive; w = 0 gives Euler's method for the
    probability-flow ODE.

    Args:
        noise: w(t), finite on the grid.

    Returns:
        The sampler.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 6; Kloeden and Platen 1992, section 10.2.
    """

    def prepare(sde: SDE, ts: Times) -> NoisyRow:
        t, _ = both_ends(sde, ts)
        dt = ts[1:] - ts[:-1]
        w = jax.vmap(lambda time: noise(sde, time))(ts[:-1])
        along_eps = (t.dsigma + w**2 / (2.0 * t.sigma)) * dt
        return NoisyRow(ts[:-1], jnp.ones_like(dt), t.dalpha * dt, along_eps, w * jnp.sqrt(-dt))

    return linear_sampler(prepare, lambda sde, t: require_finite_noise(noise, sde, t))
