"""The noising processes of the literature, a few lines each.

Factories check their arguments; the classes are plain pytrees. alpha and sigma are accurate in
float32 near both ends: differences go through expm1 or a product of sines.

| process | alpha(t) | sigma(t) | times | prior std |
|---|---|---|---|---|
| VP | exp(-B/2) | sqrt(1 - exp(-B)) | 1e-3 .. 1 | 1 |
| SubVP | exp(-B/2) | 1 - exp(-B) | 1e-3 .. 1 | 1 |
| VE | 1 | sigma_min (sigma_max/sigma_min)^t | 1e-5 .. 1 | sigma_max |
| Cosine | cos(u)/cos(u0) | sqrt(1 - alpha^2) | 1e-3 .. 0.999 | 1 |
| EDM | 1 | t | 0.002 .. 80 | t_max |
| RectifiedFlow | 1 - t | t | 1e-3 .. 1 | 1 |
with B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 and u(t) = (t + s)/(1 + s) pi/2.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jax.numpy as jnp

from sdejax.sde import SDE, as_time
from sdejax.types import Leaf, Scalar, Time


class VP(SDE):
    """Variance preserving with linear beta (Song et al. 2021, arXiv:2011.13456, eq. 32-33)."""

    beta_min: Leaf = 0.1
    beta_max: Leaf = 20.0

    def _integral(self, t):
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _time_of_integral(self, b):
        low, slope = self.beta_min, self.beta_max - self.beta_min
        return 2.0 * b / (low + jnp.sqrt(low**2 + 2.0 * slope * b))

    def alpha(self, t: Time) -> Scalar:
        """exp(-B/2)."""
        return jnp.exp(-0.5 * self._integral(as_time(t)))

    def sigma(self, t: Time) -> Scalar:
        """sqrt(1 - exp(-B)); its derivative is infinite at t = 0."""
        return jnp.sqrt(-jnp.expm1(-self._integral(as_time(t))))

    @property
    def prior_std(self) -> Any:
        """1, the limit of long times that the paper samples from."""
        return 1.0

    def time_of_log_snr(self, level: Scalar) -> Scalar:
        """B = log(1 + exp(-log-SNR)), then the root of the quadratic B(t)."""
        return self._time_of_integral(jnp.logaddexp(-level, jnp.zeros_like(level)))


class SubVP(VP):
    """Sub-VP, whose variance is the square of VP's (Song et al. 2021, eq. 29 and appendix B)."""

    def sigma(self, t: Time) -> Scalar:
        """1 - exp(-B)."""
        return -jnp.expm1(-self._integral(as_time(t)))

    def time_of_log_snr(self, level: Scalar) -> Scalar:
        """sigma/alpha = 2 sinh(B/2), then the root of the quadratic B(t)."""
        return self._time_of_integral(2.0 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * level)))


class VE(SDE):
    """Variance exploding, geometric in t (Song et al. 2021, eq. 30-31; their eps is 1e-5)."""

    t_min: Leaf = 1e-5
    sigma_min: Leaf = 0.01
    sigma_max: Leaf = 50.0

    def alpha(self, t: Time) -> Scalar:
        """1."""
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Scalar:
        """sigma_min (sigma_max / sigma_min)^t."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** as_time(t)

    @property
    def prior_std(self) -> Any:
        """sigma_max."""
        return self.sigma_max

    def time_of_log_snr(self, level: Scalar) -> Scalar:
        """log(sigma / sigma_min) / log(sigma_max / sigma_min)."""
        low = jnp.log(self.sigma_min)
        return (-0.5 * level - low) / (jnp.log(self.sigma_max) - low)


class Cosine(SDE):
    """The shifted cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17).

    alpha is 0 at t = 1, where log-SNR and f are infinite. The paper stops short of it
    (beta <= 0.999); t_min and t_max are its first and last but one of 1000 levels.
    """

    t_max: Leaf = 0.999
    shift: Leaf = 0.008

    def _angle(self, t):
        return t / (1.0 + self.shift) * (0.5 * math.pi)

    def _start(self):
        return self.shift / (1.0 + self.shift) * (0.5 * math.pi)

    def alpha(self, t: Time) -> Scalar:
        """cos(u)/cos(u0), written as a sine of the distance to t = 1."""
        return jnp.sin(self._angle(1.0 - as_time(t))) / jnp.cos(self._start())

    def sigma(self, t: Time) -> Scalar:
        """sqrt(sin(u - u0) sin(u + u0)) / cos(u0)."""
        angle, start = self._angle(as_time(t)), self._start()
        return jnp.sqrt(jnp.sin(angle) * jnp.sin(angle + 2.0 * start)) / jnp.cos(start)

    @property
    def prior_std(self) -> Any:
        """1."""
        return 1.0


class EDM(SDE):
    """sigma = t (Karras et al. 2022, arXiv:2206.00364, table 1)."""

    t_min: Leaf = 0.002
    t_max: Leaf = 80.0
    sigma_min = property(lambda self: self.t_min)
    sigma_max = property(lambda self: self.t_max)

    def alpha(self, t: Time) -> Scalar:
        """1."""
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Scalar:
        """t."""
        return as_time(t)

    def time_of_log_snr(self, level: Scalar) -> Scalar:
        """exp(-log-SNR / 2)."""
        return jnp.exp(-0.5 * level)


class RectifiedFlow(SDE):
    """The straight path with data at t = 0, as in SD3 (Esser et al. 2024, arXiv:2403.03206).

    Liu et al. 2022 (arXiv:2209.03003) and Lipman et al. 2022 (arXiv:2210.02747) put noise at 0. At
    t = 1 the velocity eps - x0 is finite, but f, g and the log-SNR are not: w = g needs t_max < 1.
    """

    def alpha(self, t: Time) -> Scalar:
        """1 - t."""
        return 1.0 - as_time(t)

    def sigma(self, t: Time) -> Scalar:
        """t."""
        return as_time(t)

    @property
    def prior_std(self) -> Any:
        """1."""
        return 1.0

    def time_of_log_snr(self, level: Scalar) -> Scalar:
        """sigmoid(-log-SNR / 2)."""
        return 1.0 / (1.0 + jnp.exp(0.5 * level))


def _increasing(name: str, **values: float) -> None:
    """Refuses values that are not finite, positive and strictly increasing."""
    if not all(low < high for low, high in pairwise([0.0, *values.values(), math.inf])):
        got = ", ".join(f"{key}={value}" for key, value in values.items())
        raise ValueError(f"{name}: got {got}; expected finite 0 < {' < '.join(values)}")


def vp(
    beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
) -> VP:
    """The VP process, ``dx = -beta(t)/2 x dt + sqrt(beta(t)) dW``, beta linear in t.

    Args:
        beta_min: beta(0), per unit time.
        beta_max: beta(1), per unit time.
        t_min: end of sampling, > 0.
        t_max: time of the prior.

    Returns:
        The process.

    Raises:
        ValueError: unless 0 < beta_min < beta_max and 0 < t_min < t_max.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 32 and appendix C.
    """
    _increasing("vp", beta_min=beta_min, beta_max=beta_max)
    _increasing("vp", t_min=t_min, t_max=t_max)
    return VP(beta_min=beta_min, beta_max=beta_max, t_min=t_min, t_max=t_max)


def sub_vp(
    beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
) -> SubVP:
    """The sub-VP process: VP's drift, ``g^2 = beta (1 - exp(-2 B))``.

    Args, Returns and Raises are those of ``vp``. Reference: Song et al. 2021, eq. 28.
    """
    _increasing("sub_vp", beta_min=beta_min, beta_max=beta_max)
    _increasing("sub_vp", t_min=t_min, t_max=t_max)
    return SubVP(beta_min=beta_min, beta_max=beta_max, t_min=t_min, t_max=t_max)


def ve(
    sigma_min: float = 0.01, sigma_max: float = 50.0, t_min: float = 1e-5, t_max: float = 1.0
) -> VE:
    """The VE process, ``dx = g dW`` with geometric sigma.

    Args:
        sigma_min: sigma(0), in units of the data.
        sigma_max: sigma(1), about the largest distance between two data (arXiv:2006.09011).
        t_min: end of sampling, >= 0; discrete models have 0, so that sigma_min is a level.
        t_max: time of the prior.

    Returns:
        The process.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and 0 <= t_min < t_max.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 30.
    """
    _increasing("ve", sigma_min=sigma_min, sigma_max=sigma_max)
    _increasing("ve", **({"t_min": t_min} if t_min else {}), t_max=t_max)
    return VE(sigma_min=sigma_min, sigma_max=sigma_max, t_min=t_min, t_max=t_max)


def cosine(shift: float = 0.008, t_min: float = 1e-3, t_max: float = 0.999) -> Cosine:
    """The shifted cosine process.

    Args:
        shift: the paper's s; it keeps sigma from rising too slowly at t = 0.
        t_min: end of sampling, > 0.
        t_max: time of the prior, < 1 since alpha(1) = 0 makes f and the log-SNR infinite.

    Returns:
        The process.

    Raises:
        ValueError: unless shift > 0 and 0 < t_min < t_max < 1.

    Reference: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """
    _increasing("cosine", shift=shift)
    _increasing("cosine", t_min=t_min, t_max=t_max, one=1.0)
    return Cosine(shift=shift, t_min=t_min, t_max=t_max)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> EDM:
    """The EDM process, sigma(t) = t.

    Args:
        sigma_min: smallest noise level of sampling (t_min), in units of the data, > 0.
        sigma_max: largest noise level (t_max and prior_std).

    Returns:
        The process.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.

    Reference: Karras et al. 2022, arXiv:2206.00364, table 1.
    """
    _increasing("edm", sigma_min=sigma_min, sigma_max=sigma_max)
    return EDM(t_min=sigma_min, t_max=sigma_max)


def rectified_flow(t_min: float = 1e-3, t_max: float = 1.0) -> RectifiedFlow:
    """The straight path; t = 0 is data (reversed from Liu et al. and Lipman et al.).

    Args:
        t_min: end of sampling, > 0.
        t_max: time of the prior; below 1 where f, g or the log-SNR are needed at the start.

    Returns:
        The process.

    Raises:
        ValueError: unless 0 < t_min < t_max <= 1.

    Reference: Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206, eq. 13.
    """
    _increasing("rectified_flow", t_min=t_min, t_max=t_max)
    if t_max > 1:
        raise ValueError(f"rectified_flow: got t_max={t_max}; expected at most 1, where alpha = 0")
    return RectifiedFlow(t_min=t_min, t_max=t_max)
