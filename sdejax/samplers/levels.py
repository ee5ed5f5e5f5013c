"""Noise levels r = sigma/alpha: in y = x/alpha every process is one with alpha = 1 and sigma = r.

Methods that integrate eps over r start from a finite level, so not where alpha = 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.sde import SDE
from sdejax.types import Time, Times

Levels = Float[Array, " n"]


def noise_levels(sde: SDE, ts: Times) -> Levels:
    """The noise level ``r = sigma/alpha`` at each time.

    Args:
        sde: the process.
        ts: times [n].

    Returns:
        Levels [n], infinite where alpha = 0.
    """
    return jax.vmap(lambda t: jnp.asarray(sde.sigma(t)) / jnp.asarray(sde.alpha(t)))(ts)


def require_level(name: str, sde: SDE, t: Time) -> None:
    """Refuses a start where alpha = 0 and the level sigma/alpha is infinite; lets tracers through.

    Args:
        name: the method that asks.
        sde: the process.
        t: the first time of a run.

    Raises:
        ValueError: where alpha(t) = 0.
    """
    alpha = sde.alpha(t)
    if not isinstance(alpha, jax.core.Tracer) and float(alpha) == 0.0:
        raise ValueError(
            f"{name}: got t_max={float(t)} of {type(sde).__name__}, where alpha = 0 and eps cannot "
            "be integrated; use a method that integrates x0 (dpmpp_2m, dpmpp_2s, unipc_2, "
            "exponential_adams_2, a learned solver) or a process with a smaller t_max"
        )
