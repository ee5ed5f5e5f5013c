"""Loss weightings: what the squared error counts at each time.

The reference is ``E = |eps_hat - eps|^2``; a weighting w makes the loss ``w(t) E``. The error of
any output is ``(det/alpha)^2 E = (det/sigma)^2 |x0_hat - x0|^2``, so the same weighting gives the
same gradients for every prediction type. A weighting here returns the product ``alpha^2 w``,
written in closed form so that it is finite at both ends where w alone may not be.

| name | w on E | source |
|---|---|---|
| simple | 1 | Ho et al. 2020, arXiv:2006.11239, eq. 14 |
| likelihood | -lambda'/2 = g^2/(2 sigma^2) | Song et al. 2021, arXiv:2101.09258, eq. 7 |
| sigma2 | sigma^2 on the score's error, which is E | Song and Ermon 2019, arXiv:1907.05600, eq. 6 |
| edm | 1 + sigma^2/(alpha sigma_data)^2 | Karras et al. 2022, arXiv:2206.00364, table 1 |
| min_snr | min(1, gamma/SNR) | Hang et al. 2023, arXiv:2303.09556, eq. 8 |
| sigmoid | -lambda' sigmoid(b - lambda) | Kingma and Gao 2023, arXiv:2303.00848 (b = 2) |
| flow | (alpha' sigma - sigma' alpha)^2/alpha^2 | Lipman et al. 2022, arXiv:2210.02747 |

lambda is the log-SNR, ``lambda' = 2 (alpha'/alpha - sigma'/sigma)``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sdejax.sde import Coefficients
from sdejax.types import Scalar

Weight = Callable[[Coefficients], Scalar]  # alpha^2 w


def simple(c: Coefficients) -> Scalar:
    """w = 1: the mean squared error of the noise. ``sigma^2`` on the score's error is the same."""
    return c.alpha**2


def likelihood(c: Coefficients) -> Scalar:
    """w = -lambda'/2, i.e. g^2/2 on the score's error: bounds the log-likelihood.

    With uniform times the loss is in nats per dimension and per unit of time: the bound's integral
    is d (t_max - t_min) times it.
    """
    return (c.dsigma * c.alpha / c.sigma - c.dalpha) * c.alpha


def flow(c: Coefficients) -> Scalar:
    """The squared error of the velocity: conditional flow matching."""
    return (c.dalpha * c.sigma - c.dsigma * c.alpha) ** 2


def edm(sigma_data: float = 0.5) -> Weight:
    """w = 1 + sigma^2/(alpha sigma_data)^2: unit weight on the error of EDM's F.

    Args:
        sigma_data: standard deviation of the data.

    Returns:
        The weighting.
    """
    return lambda c: c.alpha**2 + (c.sigma / sigma_data) ** 2


def min_snr(gamma: float = 5.0) -> Weight:
    """w = min(1, gamma/SNR), which bounds the x0-loss of nearly clean examples.

    Args:
        gamma: the largest signal-to-noise ratio that counts.

    Returns:
        The weighting.
    """
    return lambda c: jnp.minimum(c.alpha**2, gamma * c.sigma**2)


def sigmoid(bias: float = 2.0) -> Weight:
    """w = -lambda' sigmoid(bias - lambda), a monotone weighting.

    Args:
        bias: the log-SNR above which detail is discounted.

    Returns:
        The weighting.
    """

    def weight(c: Coefficients) -> Scalar:
        slope = 2.0 * (c.dsigma * c.alpha - c.dalpha * c.sigma) * c.alpha * c.sigma
        return slope / (c.sigma**2 + c.alpha**2 * jnp.exp(-bias))

    return weight
