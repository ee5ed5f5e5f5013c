"""The number that tells a network the noise level, as a function of the process and the time.

EDM's ``log(sigma/alpha) / 4`` means the same for every process. Published networks have others:
999 t, sigma, or the place of the nearest of a few levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from sdejax.sde import SDE, as_time
from sdejax.types import Scalar, Time

Conditioning = Callable[[SDE, Time], Scalar]


def log_noise(sde: SDE, t: Time) -> Scalar:
    """EDM's conditioning ``log(sigma/alpha) / 4``, clipped to [-5, 5] where it is infinite."""
    t = as_time(t)
    ratio = jnp.asarray(sde.sigma(t)) / jnp.asarray(sde.alpha(t))
    # The logarithm last: XLA puts cheap operations of a scalar into the loops over what uses it.
    return 0.25 * jnp.log(jnp.clip(ratio, math.exp(-20.0), math.exp(20.0))).astype(t.dtype)


def raw_time(sde: SDE, t: Time) -> Scalar:
    """The time itself."""
    return as_time(t)


def scaled_time(factor: float = 999.0) -> Conditioning:
    """``factor t``, as networks with positional embeddings of integer levels expect.

    Args:
        factor: the number of levels of the discrete chain less one.

    Returns:
        The conditioning.
    """
    return lambda sde, t: factor * as_time(t)


def noise_level(sde: SDE, t: Time) -> Scalar:
    """sigma(t), as NCSN++ with Fourier features expects."""
    return jnp.asarray(sde.sigma(as_time(t)))


def level_index(levels: int = 10) -> Conditioning:
    """The index of the nearest of ``levels`` times, evenly from t_max (index 0) to t_min: NCSN's.

    The levels are those of ``times.levels(sde, levels)`` and of ``grids.uniform(sde, levels - 1)``;
    under VE their sigmas are geometric.

    Args:
        levels: L, the number of levels the network has.

    Returns:
        The conditioning, a whole number in 0 .. L - 1.

    Raises:
        ValueError: for fewer than two levels.

    Reference: Song and Ermon 2019, arXiv:1907.05600, section 4.
    """
    place = _place("level_index", levels)
    return lambda sde, t: jnp.round(place(sde, t))


def nearest_level(levels: int = 10) -> Conditioning:
    """sigma of the nearest of ``levels`` times, evenly from t_max to t_min.

    What a network divides by that was trained at these levels alone (NCSNv2). Between two levels
    the nearer one is taken, so the number is constant in t but for jumps.

    Args:
        levels: L, the number of levels.

    Returns:
        The conditioning.

    Raises:
        ValueError: for fewer than two levels.

    Reference: Song and Ermon 2020, arXiv:2006.09011, section 3.3.
    """
    place = _place("nearest_level", levels)

    def sigma(sde: SDE, t: Time) -> Scalar:
        r = jnp.round(place(sde, t)) / (levels - 1)
        return jnp.asarray(sde.sigma((1.0 - r) * sde.t_max + r * sde.t_min))

    return sigma


def _place(name: str, levels: int) -> Conditioning:
    """Where t lies among the levels: 0 at t_max, ``levels - 1`` at t_min and below."""
    if levels < 2:
        raise ValueError(f"{name}: got levels={levels}; expected at least 2")

    def place(sde: SDE, t: Time) -> Scalar:
        r = (sde.t_max - as_time(t)) / (sde.t_max - sde.t_min)
        return jnp.clip((levels - 1) * r, 0, levels - 1)

    return place
