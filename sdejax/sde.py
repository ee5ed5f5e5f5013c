"""Noising processes: two functions, and everything that follows from them.

A process adds Gaussian noise to data, ``x_t = alpha(t) x_0 + sigma(t) eps`` with eps ~ N(0, I),
from data at t = 0 to noise at t = t_max. It solves the linear SDE

    dx = f(t) x dt + g(t) dW,    f = alpha'/alpha,    g^2 = 2 sigma (sigma' - sigma f),

so an SDE here is a pair ``alpha, sigma`` and its derivatives come from one ``jax.jvp``
(Song et al. 2021, arXiv:2011.13456, eq. 29; Kingma et al. 2021, arXiv:2107.00630, appendix A).
``log_snr = log(alpha^2 / sigma^2)`` falls with t.

A process of one's own is a short subclass, and its numeric fields are pytree leaves::

    class Trigonometric(SDE):
        t_max: float = 1.5

        def alpha(self, t):
            return jnp.cos(t)

        def sigma(self, t):
            return jnp.sin(t)
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.types import Data, Key, Leaf, Scalar, Time


class Coefficients(NamedTuple):
    """The values and time derivatives of alpha and sigma at one time."""

    alpha: Scalar
    sigma: Scalar
    dalpha: Scalar
    dsigma: Scalar


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SDE:
    """A noising process. Subclasses define ``alpha`` and ``sigma``.

    A subclass is made a frozen dataclass and a pytree whose leaves are its numeric fields, so
    that changing a field of a process under ``jit`` compiles nothing anew.

    Attributes:
        t_min: the earliest time used by samplers, where the last denoising step starts.
        t_max: the time of the prior. Between the two all coefficients are finite, but for the
            limits that a subclass names.
    """

    t_min: Leaf = 1e-3
    t_max: Leaf = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        keys = [jax.tree_util.GetAttrKey(name) for name in names]

        def leaves(sde):
            return [getattr(sde, name) for name in names], None

        def named_leaves(sde):
            return list(zip(keys, leaves(sde)[0], strict=True)), None

        def build(_, values):
            return cls(**dict(zip(names, values, strict=True)))

        # Not register_dataclass: structures of two classes with as many fields compare equal there
        # (jaxlib 0.10), and a jitted function now and then took one process for the other.
        jax.tree_util.register_pytree_with_keys(cls, named_leaves, build, leaves)

    def alpha(self, t: Time) -> Scalar:
        """The scale of the data in x_t."""
        raise TypeError(f"{type(self).__name__} has to define alpha(self, t)")

    def sigma(self, t: Time) -> Scalar:
        """The standard deviation of the noise in x_t."""
        raise TypeError(f"{type(self).__name__} has to define sigma(self, t)")

    @property
    def prior_std(self) -> Any:
        """Standard deviation of the prior N(0, prior_std^2 I); by default ``sigma(t_max)``."""
        return self.sigma(self.t_max)

    def time_of_log_snr(self, level: Scalar) -> Scalar:
        """The inverse of ``log_snr`` on [t_min, t_max]: bisection, then one Newton step.

        The Newton step polishes the value and carries the exact first derivative, so a grid
        in log-SNR can be differentiated. Subclasses with a closed form override this.

        Args:
            level: a log signal-to-noise ratio [].

        Returns:
            The time [] at which the process has that ratio.
        """

        def halve(_, bounds):
            low, high = bounds
            mid = 0.5 * (low + high)
            above = log_snr(self, mid) > level
            return jnp.where(above, mid, low), jnp.where(above, high, mid)

        dtype = jnp.result_type(level)
        bounds = (jnp.asarray(self.t_min, dtype), jnp.asarray(self.t_max, dtype))
        low, high = jax.lax.fori_loop(0, 64, halve, jax.lax.stop_gradient(bounds))
        t = jax.lax.stop_gradient(0.5 * (low + high))
        value, slope = jax.jvp(lambda s: log_snr(self, s), (t,), (jnp.ones_like(t),))
        step = (value - level) / slope  # not finite where the ratio is not
        t = t - jnp.where(jnp.isfinite(step), step, 0.0)
        # Inside the interval by value alone: the derivative at its ends is that of the inverse.
        return t + jax.lax.stop_gradient(jnp.clip(t, self.t_min, self.t_max) - t)


def as_time(t: Time) -> Scalar:
    """``t`` as a scalar array; Python numbers take the default floating dtype."""
    return jnp.asarray(t, jnp.result_type(float) if isinstance(t, (int, float)) else None)


def coefficients(sde: SDE, t: Time) -> Coefficients:
    """alpha, sigma and their time derivatives by one forward-mode derivative.

    Args:
        sde: the process.
        t: a time in [t_min, t_max], [].

    Returns:
        ``Coefficients`` of scalars in the dtype of ``t``.
    """
    t = as_time(t)

    def both(s):
        return jnp.asarray(sde.alpha(s), t.dtype), jnp.asarray(sde.sigma(s), t.dtype)

    (alpha, sigma), (dalpha, dsigma) = jax.jvp(both, (t,), (jnp.ones_like(t),))
    return Coefficients(alpha, sigma, dalpha, dsigma)


def perturb(sde: SDE, x0: Data, eps: Data, t: Time) -> Data:
    """The noised example ``x_t = alpha(t) x0 + sigma(t) eps``.

    Args:
        sde: the process.
        x0: data [*event].
        eps: standard normal noise [*event].
        t: time [].

    Returns:
        x_t [*event].
    """
    t = as_time(t)
    return jnp.asarray(sde.alpha(t), x0.dtype) * x0 + jnp.asarray(sde.sigma(t), x0.dtype) * eps


def drift(sde: SDE, x: Data, t: Time) -> Data:
    """The forward drift ``f(t) x`` with ``f = alpha'/alpha``; infinite where alpha = 0.

    Args:
        sde: the process.
        x: state [*event].
        t: time [].

    Returns:
        f(t) x [*event].
    """
    c = coefficients(sde, t)
    return (c.dalpha / c.alpha).astype(x.dtype) * x


def diffusion(sde: SDE, t: Time) -> Scalar:
    """The forward diffusion g(t), ``g^2 = 2 sigma (sigma' - sigma alpha'/alpha)``.

    Args:
        sde: the process.
        t: time [].

    Returns:
        g(t) [], infinite where alpha = 0.
    """
    c = coefficients(sde, t)
    return jnp.sqrt(jnp.maximum(2.0 * c.sigma * (c.dsigma - c.sigma * c.dalpha / c.alpha), 0.0))


def log_snr(sde: SDE, t: Time) -> Scalar:
    """The log signal-to-noise ratio ``log(alpha(t)^2 / sigma(t)^2)``.

    Args:
        sde: the process.
        t: time [].

    Returns:
        The ratio in nats, []; half of it is the lambda of DPM-Solver (Lu et al. 2022,
        arXiv:2206.00927).
    """
    t = as_time(t)
    alpha, sigma = jnp.asarray(sde.alpha(t), t.dtype), jnp.asarray(sde.sigma(t), t.dtype)
    return 2.0 * (jnp.log(alpha) - jnp.log(sigma))


def prior_sample(key: Key, sde: SDE, shape: tuple[int, ...], dtype: Any = None) -> Data:
    """One draw from the prior N(0, prior_std^2 I).

    Args:
        key: one example's key.
        sde: the process.
        shape: the event shape.
        dtype: floating dtype, by default the working one.

    Returns:
        x at t_max, [*event].
    """
    x = jax.random.normal(key, shape, dtype or jnp.result_type(float))
    return jnp.asarray(sde.prior_std, x.dtype) * x


def prior_log_prob(sde: SDE, x: Float[Array, "*event"]) -> Scalar:
    """The log-density of the prior N(0, prior_std^2 I) in nats.

    Args:
        sde: the process.
        x: a state at t_max, [*event].

    Returns:
        log p(x), [].
    """
    std = jnp.asarray(sde.prior_std, x.dtype)
    return jnp.sum(jax.scipy.stats.norm.logpdf(x / std)) - x.size * jnp.log(std)
