"""DDPM's chain of N levels, as a process that is smooth in between.

The chain keeps ``alpha_i^2 = (1 - beta_0) ... (1 - beta_i)`` of the data's variance at level i,
with beta_k = (beta_min + (beta_max - beta_min) k/(N-1))/N. Level i is time t = i/(N-1). With
h(y) = -log(1 - y) and beta as a function of a real index, Euler-Maclaurin's midpoint rule sums

    B(u) = sum_{k=0}^{u} h(beta(k)) = 1/d int_{a}^{b} h dy - d/24 (h'(b) - h'(a)) + O(d^3),

over betas from a = beta(-1/2) to b = beta(u + 1/2), d apart; then alpha = exp(-B/2) and
sigma = sqrt(1 - exp(-B)). This is a smooth function of real u = (N-1) t. At the levels it is exact
to 1e-12 for the published chain, and sigma to 1e-6 for every chain that is accepted. The VP process
is its limit for many levels; for N = 1000, whose first beta is 1e-4 and last 0.02, sigma differs
from VP's by up to a percent, which networks trained on the chain can tell.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from sdejax.sde import SDE, as_time
from sdejax.types import Leaf, Scalar, Time

TERMS = range(2, 13)  # of int h dy = sum y^n / (n (n - 1)); for y <= 0.1 the next is 1e-13 of it


class DDPM(SDE):
    """The chain of Ho et al. 2020 (arXiv:2006.11239), section 4, at real-valued levels."""

    t_min: Leaf = 0.0
    beta_min: Leaf = 0.1
    beta_max: Leaf = 20.0
    levels: Leaf = 1000

    def _integral(self, t):
        t = as_time(t)
        n = jnp.asarray(self.levels, t.dtype)
        d = (self.beta_max - self.beta_min) / (n * (n - 1.0))
        a = self.beta_min / n - 0.5 * d
        count = (n - 1.0) * t + 1.0  # of betas summed
        b = a + count * d
        # (b^n - a^n)/(b - a) = sum b^j a^(n-1-j): nothing cancels.
        powers, total = jnp.ones_like(b), jnp.zeros_like(b)
        for term in TERMS:
            powers = b * powers + a ** (term - 1)
            total = total + powers / (term * (term - 1))
        correction = d * d / (24.0 * (1.0 - a) * (1.0 - b))
        return count * (total - correction)

    def alpha(self, t: Time) -> Scalar:
        """exp(-B/2)."""
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Time) -> Scalar:
        """sqrt(1 - exp(-B)); sqrt(beta_min/N) at t = 0, the first level."""
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    @property
    def prior_std(self) -> Any:
        """1."""
        return 1.0


def ddpm(beta_min: float = 0.1, beta_max: float = 20.0, levels: int = 1000) -> DDPM:
    """DDPM's chain, with linear beta. Level i of ``levels`` is t = i/(levels - 1).

    Its levels are those of ``times.levels(sde, levels)`` and of ``grids.uniform(sde, levels - 1)``.

    Args:
        beta_min: N beta_0, the first step's variance times the number of levels.
        beta_max: N beta_{N-1}, the last's.
        levels: N.

    Returns:
        The process, from t_min = 0 (the first level, where sigma = sqrt(beta_min/N)) to 1.

    Raises:
        ValueError: unless 0 < beta_min < beta_max, levels >= 2, beta_max <= levels/10 and beta_min
            >= (beta_max - beta_min)/(2 levels - 2): others the formulas here do not describe well.

    Reference: Ho et al. 2020, arXiv:2006.11239, section 4; Song et al. 2021, arXiv:2011.13456,
    appendix B (its limit).
    """
    if not 0.0 < beta_min < beta_max < float("inf"):
        raise ValueError(
            f"ddpm: got beta_min={beta_min}, beta_max={beta_max}; expected 0 < beta_min < beta_max"
        )
    if beta_max > 0.1 * levels:
        raise ValueError(
            f"ddpm: got levels={levels} with beta_max={beta_max}; expected at most a tenth of the "
            f"variance a step: levels >= {10 * beta_max:g}"
        )
    if levels < 2 or beta_min < 0.5 * (beta_max - beta_min) / (levels - 1):
        raise ValueError(
            f"ddpm: got beta_min={beta_min}, beta_max={beta_max}, levels={levels}; expected at "
            "least 2 levels and a first beta of at least half the distance to the second"
        )
    return DDPM(beta_min=beta_min, beta_max=beta_max, levels=levels)
