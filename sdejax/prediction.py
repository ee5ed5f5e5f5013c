"""What a network predicts: two coefficients, ``output = a x_0 + b eps``.

With x_t = alpha x_0 + sigma eps, an output p determines the pair (x_0, eps) through one 2x2
system,

    det = a sigma - b alpha,   x_0 = (sigma p - b x_t) / det,   eps = (a x_t - alpha p) / det,

so each prediction type is one function of the coefficients and there is no table of conversions.
The pair, an ``Estimate``, is what every sampler, loss and likelihood consumes. It is finite at
both ends, where the score (sigma = 0) or the drift (alpha = 0) is not.

| type | a | b | source |
|---|---|---|---|
| x0 | 1 | 0 | |
| eps | 0 | 1 | Ho et al. 2020, arXiv:2006.11239 |
| score | 0 | -1/sigma | Song and Ermon 2019, arXiv:1907.05600 |
| v | -sigma | alpha | Salimans and Ho 2022, arXiv:2202.00512 |
| velocity | alpha' | sigma' | Lipman et al. 2022, arXiv:2210.02747 |
| edm | sigma/(sigma_data s) | -alpha sigma_data/s | Karras et al. 2022, arXiv:2206.00364 |

with s = sqrt(alpha^2 sigma_data^2 + sigma^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sdejax.sde import SDE, Coefficients, coefficients
from sdejax.types import Data, Scalar, Time


class Estimate(NamedTuple):
    """A decomposition of x_t: ``alpha x0 + sigma eps == x_t``."""

    x0: Data
    eps: Data


Prediction = Callable[[Coefficients], tuple[Scalar, Scalar]]
Denoiser = Callable[[Data, Time], Estimate]


def x0(c: Coefficients) -> tuple[Scalar, Scalar]:
    """The data, (1, 0); eps is lost at sigma = 0."""
    return jnp.ones_like(c.alpha), jnp.zeros_like(c.alpha)


def eps(c: Coefficients) -> tuple[Scalar, Scalar]:
    """The noise, (0, 1); x0 is lost at alpha = 0."""
    return jnp.zeros_like(c.alpha), jnp.ones_like(c.alpha)


def score(c: Coefficients) -> tuple[Scalar, Scalar]:
    """The score -eps/sigma, (0, -1/sigma); infinite at sigma = 0, x0 is lost at alpha = 0."""
    return jnp.zeros_like(c.alpha), -1.0 / c.sigma


def v(c: Coefficients) -> tuple[Scalar, Scalar]:
    """``alpha eps - sigma x0``, the derivative along the angle arctan(sigma/alpha)."""
    return -c.sigma, c.alpha


def velocity(c: Coefficients) -> tuple[Scalar, Scalar]:
    """``alpha' x0 + sigma' eps``, the time derivative of x_t: flow matching."""
    return c.dalpha, c.dsigma


def edm(sigma_data: float = 0.5) -> Prediction:
    """EDM's network F for any process: unit variance for data of standard deviation sigma_data.

    Args:
        sigma_data: standard deviation of the data.

    Returns:
        A prediction with det = s / sigma_data, never singular.

    Raises:
        ValueError: unless sigma_data > 0.

    Reference: Karras et al. 2022, arXiv:2206.00364, eq. 7 and table 1.
    """
    if not sigma_data > 0:
        raise ValueError(f"edm: got sigma_data={sigma_data}; expected a positive number")

    def coefficients_of_f(c: Coefficients) -> tuple[Scalar, Scalar]:
        s = jnp.sqrt((c.alpha * sigma_data) ** 2 + c.sigma**2)
        return c.sigma / (sigma_data * s), -c.alpha * sigma_data / s

    return coefficients_of_f


def determinant(prediction: Prediction, c: Coefficients) -> Scalar:
    """``a sigma - b alpha``; zero where the output does not determine the pair.

    Args:
        prediction: the type of the output.
        c: coefficients at one time.

    Returns:
        The determinant of the 2x2 system, [].
    """
    a, b = prediction(c)
    return a * c.sigma - b * c.alpha


def encode(prediction: Prediction, c: Coefficients, estimate: Estimate) -> Data:
    """The output that a network should give: ``a x0 + b eps``.

    Args:
        prediction: the type of the output.
        c: coefficients at one time.
        estimate: the pair (x0, eps), [*event] each.

    Returns:
        The output [*event].
    """
    a, b = (k.astype(estimate.x0.dtype) for k in prediction(c))
    return a * estimate.x0 + b * estimate.eps


def decode(prediction: Prediction, c: Coefficients, x: Data, output: Data) -> Estimate:
    """The pair (x0, eps) from a network's output, by the 2x2 solve of the module's head.

    Where the system is singular, x_t still tells one half (eps = x/sigma at alpha = 0, x0 = x/alpha
    at sigma = 0): that half is exact and the other is NaN.

    Args:
        prediction: the type of the output.
        c: coefficients at one time.
        x: x_t [*event].
        output: what the network gave [*event].

    Returns:
        ``Estimate`` of [*event].
    """
    a, b = prediction(c)
    det = a * c.sigma - b * c.alpha
    singular = ~(jnp.abs(det) > 0) | ~jnp.isfinite(det)
    safe = jnp.where(singular, 1.0, det)
    # The four entries of the inverse; in a singular system the lost half is NaN.
    lost = jnp.full_like(det, jnp.nan)
    only_eps, only_x0 = singular & (c.alpha == 0), singular & (c.sigma == 0)

    def entry(value, at_alpha_0, at_sigma_0):
        kept = jnp.where(singular, lost, value / safe)
        kept = jnp.where(only_eps, at_alpha_0, kept)
        return jnp.where(only_x0, at_sigma_0, kept).astype(x.dtype)

    zero = jnp.zeros_like(det)
    inverse_alpha = 1.0 / jnp.where(c.alpha == 0, 1.0, c.alpha)
    inverse_sigma = 1.0 / jnp.where(c.sigma == 0, 1.0, c.sigma)
    finite_b = jnp.where(singular, zero, b)
    # There the output says nothing new, and may be infinite itself: the score at sigma = 0.
    output = jnp.where(singular, jnp.zeros_like(output), output)
    return Estimate(
        x0=entry(c.sigma, lost, zero) * output + entry(-finite_b, lost, inverse_alpha) * x,
        eps=entry(-c.alpha, zero, lost) * output + entry(a, inverse_sigma, lost) * x,
    )


def replace_x0(estimate: Estimate, c: Coefficients, x: Data, x0: Data) -> Estimate:
    """The estimate with another x0, e.g. a clipped one, and eps recomputed from x_t.

    ``eps = (x_t - alpha x0) / sigma``, so the pair still decomposes x_t; at sigma = 0 eps stays.

    Args:
        estimate: the pair (x0, eps), [*event] each.
        c: coefficients at one time.
        x: x_t [*event].
        x0: the new x0 [*event].

    Returns:
        ``Estimate`` of [*event].
    """
    # Clipping would hide an infinite output, so that stays visible as NaN.
    clipped = jnp.where(jnp.isfinite(estimate.x0), x0, jnp.nan)
    alpha, sigma = c.alpha.astype(x.dtype), c.sigma.astype(x.dtype)
    eps = (x - alpha * clipped) / jnp.where(sigma == 0, 1.0, sigma)
    # Where nothing was clipped eps is left as it was, free of a second rounding.
    unchanged = (clipped == estimate.x0) | (sigma == 0)
    return Estimate(clipped, jnp.where(unchanged, estimate.eps, eps))


def to_score(estimate: Estimate, c: Coefficients) -> Data:
    """The score ``grad_x log p_t(x_t) = -eps / sigma``.

    Args:
        estimate: the pair (x0, eps), posterior means given x_t.
        c: coefficients at one time.

    Returns:
        The score [*event]; infinite at sigma = 0.
    """
    return -estimate.eps / c.sigma.astype(estimate.eps.dtype)


def to_velocity(estimate: Estimate, c: Coefficients) -> Data:
    """The velocity of the probability-flow ODE, ``alpha' x0 + sigma' eps``.

    Equal to ``f x - g^2 score / 2`` (Song et al. 2021, eq. 13) and finite where f is not.

    Args:
        estimate: the pair (x0, eps), posterior means given x_t.
        c: coefficients at one time.

    Returns:
        dx/dt [*event].
    """
    dtype = estimate.x0.dtype
    return c.dalpha.astype(dtype) * estimate.x0 + c.dsigma.astype(dtype) * estimate.eps


def require_decodable(prediction: Prediction, sde: SDE, t: Time) -> None:
    """Refuses, before anything is compiled, a prediction type that has no x0 and eps at ``t``.

    Args:
        prediction: the type of the output.
        sde: the process, with concrete fields.
        t: the first time of a sampler.

    Raises:
        ValueError: where the 2x2 system is singular, e.g. an eps network at alpha = 0.
    """
    c = coefficients(sde, t)
    det = float(determinant(prediction, c))
    if not abs(det) > 0 or not math.isfinite(det):
        raise ValueError(
            f"prediction {prediction.__name__!r}: got t={float(t)} with alpha={float(c.alpha):.3g},"
            f" sigma={float(c.sigma):.3g}, where its output does not determine x0 and eps; "
            "use velocity, v or edm, or a process with a smaller t_max or a larger t_min"
        )
