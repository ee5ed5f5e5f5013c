"""From the data at t = 0 to t_min, where the flow starts: three ways, each with its term.

At t = 0 a score may be infinite, so solves start at t_min > 0 and something has to be said of what
lies between. A cut-off gives the state at t_min, a term in nats, and network calls:

| name | state at t_min | term | what it makes the model |
|---|---|---|---|
| as_is | x | 0 | p_tmin itself, as a density of x |
| rescaled | alpha x | d log alpha | p_tmin of x/alpha: samples are divided by alpha |
| noised | alpha x + sigma z | log r(x given x_tmin) - log q(x_tmin given x) | a bound |

with alpha, sigma at t_min. ``noised`` is a lower bound on the log-density, in expectation over z,
of the model that draws x_tmin and then x from r = N(x0_hat(x_tmin), (sigma/alpha)^2 I); it is the
one to take where sigma(t_min) is not small beside the data's detail.

Reference: Song et al. 2021, arXiv:2101.09258, appendix on the reconstruction term (noised).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdejax.prediction import Denoiser
from sdejax.sde import SDE, as_time, coefficients
from sdejax.types import Data, Key, Scalar

Cutoff = Callable[[Key, SDE, Denoiser, Data], tuple[Data, Scalar, int]]


def as_is(key: Key, sde: SDE, denoiser: Denoiser, x: Data) -> tuple[Data, Scalar, int]:
    """x counts as a state at t_min: the density is p_tmin(x)."""
    return x, jnp.zeros((), x.dtype), 0


def rescaled(key: Key, sde: SDE, denoiser: Denoiser, x: Data) -> tuple[Data, Scalar, int]:
    """``alpha x`` is the state, with log-det ``d log alpha``: p_tmin without its shrinking."""
    alpha = jnp.asarray(sde.alpha(as_time(sde.t_min)), x.dtype)
    return alpha * x, x.size * jnp.log(alpha), 0


def noised(key: Key, sde: SDE, denoiser: Denoiser, x: Data) -> tuple[Data, Scalar, int]:
    """``alpha x + sigma z`` is the state, one draw: a lower bound, one network call.

    With r and q Gaussians of covariances (sigma/alpha)^2 I and sigma^2 I their constants leave
    d log alpha, and the exponents |z|^2/2 - |x - x0_hat|^2 alpha^2/(2 sigma^2).
    """
    c = coefficients(sde, jnp.asarray(sde.t_min, x.dtype))
    z = jax.random.normal(key, x.shape, x.dtype)
    state = c.alpha * x + c.sigma * z
    missed = (x - denoiser(state, jnp.asarray(sde.t_min, x.dtype)).x0) * c.alpha / c.sigma
    return state, x.size * jnp.log(c.alpha) + 0.5 * jnp.sum(z**2 - missed**2), 1


CUTOFFS: dict[str, Cutoff] = {"as_is": as_is, "rescaled": rescaled, "noised": noised}
