"""DPM-Solver++ of several steps, deterministic and stochastic, as published.

With lambda = log(alpha/sigma), h = lambda_s - lambda_t > 0 and D the extrapolated x0, the reverse
SDE with noise eta g has the steps

    x_s = (sigma_s/sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D
          + sigma_s sqrt(1 - e^(-2 eta h)) z,

which at eta = 0 are those of the probability-flow ODE. A step to sigma = 0 has infinite h and is
of order 1: x_s = alpha_s x0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdejax.samplers.base import Sampler, both_ends
from sdejax.samplers.exponential import DATA, LOG_RATIO
from sdejax.samplers.multistep import HistoryRow, multistep
from sdejax.sde import SDE
from sdejax.types import Times


def dpmpp_2m(eta: float = 0.0) -> Sampler:
    """DPM-Solver++(2M) and, with eta = 1, SDE-DPM-Solver++(2M).

    D = m_0 + (m_0 - m_1)/(2 r) with r = h_before/h; order 2 at eta = 0. The first step is of
    order 1.

    Args:
        eta: 0 the probability-flow ODE, 1 the reverse SDE.

    Returns:
        The sampler, one evaluation a step.

    Raises:
        ValueError: for eta < 0.

    Reference: Lu et al. 2022, arXiv:2211.01095, algorithm 2 (2M) and the SDE solvers (SDE 2M).
    """
    if eta < 0.0:
        raise ValueError(f"dpmpp_2m: got eta={eta}; expected a number >= 0")

    def prepare(sde: SDE, ts: Times) -> HistoryRow:
        h, a, b, d = _exact_part(sde, ts, eta)
        slope = 0.5 * _inverse_ratio(h, 1)
        return HistoryRow(ts[:-1], a, jnp.stack([b * (1.0 + slope), -b * slope], -1), d)

    return multistep(prepare, DATA.pick, 2)


def dpmpp_3m() -> Sampler:
    """DPM-Solver++(3M), as published: its second difference enters with half its weight.

    With phi2 = (e^-h - 1)/h + 1 and D1, D2 the first and second differences at m_0, scaled by h,

        x_s = (sigma_s/sigma_t) x_t + alpha_s ((1 - e^-h) m_0 + phi2 D1 - (phi2/h - 1/2) D2).

    The last coefficient is half of the integral that the interpolating quadratic has, so the order
    is 2, with a smaller error than 2M's; ``exponential_adams(3)`` has all of it and order 3.

    Returns:
        The sampler, one evaluation a step; the first two are of order 1 and 2.

    Reference: Lu et al. 2022, arXiv:2211.01095, and their code, github.com/LuChengTHU/dpm-solver
    (the third-order multistep update).
    """

    def prepare(sde: SDE, ts: Times) -> HistoryRow:
        h, a, b, d = _exact_part(sde, ts, 0.0)
        _, s = both_ends(sde, ts)
        finite = jnp.isfinite(h) & (h > 0)
        safe = jnp.where(finite, h, 1.0)
        phi2 = 1.0 + jnp.expm1(-safe) / safe
        phi3 = phi2 / safe - 0.5
        near, far = _inverse_ratio(h, 1), _inverse_ratio(h, 2)  # h/h_1, h/h_2
        # h/(h_1 + h_2) and h_1/(h_1 + h_2); 0 and 0 before there are three evaluations.
        both = far > 0
        total = jnp.where(
            both, 1.0 / jnp.where(near > 0, near, 1.0) + 1.0 / jnp.where(both, far, 1.0), 1.0
        )
        share = jnp.where(both, 1.0 / (jnp.where(near > 0, near, 1.0) * total), 0.0)
        quadratic = jnp.where(both, 1.0 / total, 0.0)
        # weights of d_0 = (m_0 - m_1) near and d_1 = (m_1 - m_2) far
        w0 = jnp.where(finite, phi2 * (1.0 + share) - phi3 * quadratic, 0.0) * s.alpha * near
        w1 = jnp.where(finite, -phi2 * share + phi3 * quadratic, 0.0) * s.alpha * far
        return HistoryRow(ts[:-1], a, jnp.stack([b + w0, w1 - w0, -w1], -1), d)

    return multistep(prepare, DATA.pick, 3)


def _exact_part(sde: SDE, ts: Times, eta: float):
    """h [n], infinite at either end, and the coefficients of x_t, D and z."""
    t, s = both_ends(sde, ts)
    level = jax.vmap(lambda time: LOG_RATIO.value(DATA, sde, time))(ts)
    h = level[1:] - level[:-1]
    shrink = t.alpha * s.sigma / (s.alpha * t.sigma)  # e^-h, exact at both ends
    # eta = 0 has no power to differentiate: that of shrink = 0 is NaN.
    a = s.sigma / t.sigma * (shrink**eta if eta else 1.0)
    d = s.sigma * jnp.sqrt(1.0 - shrink ** (2.0 * eta)) if eta else None
    return h, a, s.alpha * (1.0 - shrink ** (1.0 + eta)), d


def _inverse_ratio(h, back: int):
    """h_i / h_{i-back}: 0 before there is such a step, or where either is infinite."""
    before = jnp.concatenate(
        [jnp.full((min(back, h.shape[0]),), jnp.inf), h[: max(h.shape[0] - back, 0)]]
    )
    usable = jnp.isfinite(before) & jnp.isfinite(h) & (before > 0)
    return jnp.where(usable, h, 0.0) / jnp.where(usable, before, 1.0)
