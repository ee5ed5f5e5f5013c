"""The grids of times that sampling steps through.

A grid runs from t_max down to t_min, [n + 1] times for n steps; samplers take one more denoising
step from t_min to the data. Grids are differentiable in the fields of the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.sde import SDE, log_snr
from sdejax.types import Scalar, Times

Grid = Callable[[SDE, int], Times]


def uniform(sde: SDE, n: int) -> Times:
    """n steps of equal length in t.

    Args:
        sde: the process.
        n: number of steps.

    Returns:
        [n + 1] times from t_max to t_min.
    """
    return jnp.linspace(sde.t_max, sde.t_min, n + 1)


def quadratic(sde: SDE, n: int) -> Times:
    """Equal steps in sqrt(t): more of them near the data.

    Args:
        sde: the process.
        n: number of steps.

    Returns:
        [n + 1] times from t_max to t_min.

    Reference: Song et al. 2020, arXiv:2010.02502, appendix D.2.
    """
    roots = jnp.linspace(jnp.sqrt(sde.t_max), jnp.sqrt(sde.t_min), n + 1)
    return _with_ends(sde, roots**2)


def uniform_log_snr(sde: SDE, n: int) -> Times:
    """Equal steps in log-SNR.

    Args:
        sde: the process, with finite log-SNR at t_max.
        n: number of steps.

    Returns:
        [n + 1] times from t_max to t_min.

    Raises:
        ValueError: where the log-SNR at t_max is infinite.

    Reference: Lu et al. 2022, arXiv:2206.00927, section 3.3.
    """
    low, high = _finite_log_snrs("uniform_log_snr", sde)
    return _with_ends(sde, jax.vmap(sde.time_of_log_snr)(jnp.linspace(low, high, n + 1)))


def karras(sde: SDE, n: int, rho: float = 7.0) -> Times:
    """Equal steps in (sigma/alpha)^(1/rho), for any process.

    Args:
        sde: the process, with finite log-SNR at t_max.
        n: number of steps.
        rho: how much shorter the steps near the data are.

    Returns:
        [n + 1] times from t_max to t_min.

    Raises:
        ValueError: where sigma/alpha at t_max is infinite.

    Reference: Karras et al. 2022, arXiv:2206.00364, eq. 5.
    """
    low, high = _finite_log_snrs("karras", sde)
    roots = jnp.linspace(jnp.exp(-0.5 * low / rho), jnp.exp(-0.5 * high / rho), n + 1)
    return _with_ends(sde, jax.vmap(sde.time_of_log_snr)(-2.0 * rho * jnp.log(roots)))


def _with_ends(sde: SDE, ts: Float[Array, " n"]) -> Times:
    """``ts`` with its ends set to t_max and t_min, which an inverse meets only to rounding."""
    return ts.at[0].set(sde.t_max).at[-1].set(sde.t_min)


def _finite_log_snrs(name: str, sde: SDE) -> tuple[Scalar, Scalar]:
    """log-SNR at t_max and t_min, refused by name where it is infinite."""
    low, high = log_snr(sde, sde.t_max), log_snr(sde, sde.t_min)
    if not isinstance(low, jax.core.Tracer) and not math.isfinite(float(low)):
        raise ValueError(
            f"{name}: got t_max={float(sde.t_max)}, where alpha = 0 and the log-SNR is infinite; "
            "use grids.uniform or grids.quadratic, or a process with a smaller t_max"
        )
    return low, high
