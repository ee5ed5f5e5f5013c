"""Log-density of the probability-flow ODE, with its parts and its errors.

Along the ODE dx/dt = v(x, t) the density changes by d log p/dt = -div v. From x at t_min to the
latent x_T at t_max, with the prior pi = N(0, prior_std^2 I) stated by the process,

    log p(x) = log pi(x_T) + d log(s_T/s_0) + int tr(J - kappa I) du,    kappa = d log(s/S)/du,

where J is the Jacobian of the field in some coordinates y = x/S over u, and s^2 = alpha^2 sd^2 +
sigma^2. The term kappa I is what N(0, sd^2 I) would give: its integral is known, so neither probes
nor steps are spent on it. In ``coordinates.angle(sd)``, the default, s = S and kappa = 0.

The density is that of the *model*: the stated prior pulled back through the flow of the denoiser
given, x taken at t_min. With the exact denoiser of data p_0 it is log p_tmin(x) but for the prior's
mismatch, log pi(x_T) - log p_tmax(x_T). How x is brought from 0 to t_min is the ``cutoff``.

A flow with a learned score and the reverse SDE of the same score are two models. What is here is
the first; variational bounds (``likelihood.elbo``) belong to the second.

Reference: Chen et al. 2018, arXiv:1806.07366, theorem 1; Grathwohl et al. 2018, arXiv:1810.01367;
Song et al. 2021, arXiv:2011.13456, eq. 39.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdejax.divergence import Divergence
from sdejax.likelihood.cutoff import Cutoff, as_is
from sdejax.likelihood.flow import Flow, Solved, divergence_of, solve
from sdejax.prediction import Denoiser
from sdejax.samplers.base import NOT_FINITE, SUCCESS
from sdejax.sde import SDE, prior_log_prob
from sdejax.types import Data, Key, Scalar


class Likelihood(NamedTuple):
    """The report of one example, in nats where nothing else is said."""

    log_p: Float[Array, "*batch"]  # prior + divergence + cutoff; NaN where the solve failed
    bits_per_dim: Float[Array, "*batch"]  # -log_p / (d ln 2), of the density
    standard_error: Float[Array, "*batch"]  # of log_p from the probes: 0 if exact, NaN for one
    latent: Float[Array, "*batch_and_event"]  # the state at t_max
    prior: Float[Array, "*batch"]  # log pi(latent)
    divergence: Float[Array, "*batch"]  # change of log-volume between t_min and t_max
    cutoff: Float[Array, "*batch"]  # from the data to t_min
    nfe: Int[Array, "*batch"]  # evaluations of the network, rejected steps included
    result: Int[Array, "*batch"]  # SUCCESS, MAX_STEPS or NOT_FINITE, as of samplers


def flow_of(**options: Any) -> Flow:
    """A ``Flow``, with what it has no field for refused.

    Args:
        **options: fields of ``Flow``.

    Returns:
        The flow.

    Raises:
        ValueError: for an unknown option, or a divergence that is none.
    """
    for name in options:
        if name not in Flow._fields:
            raise ValueError(f"there is no option {name!r}; the options are {list(Flow._fields)}")
    flow = Flow(**options)
    if flow.divergence is not None and not isinstance(flow.divergence, Divergence):
        raise ValueError(
            f"divergence: got {flow.divergence!r}; expected e.g. divergence.hutchinson(4)"
        )
    return flow


def log_likelihood(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    *,
    cutoff: Cutoff = as_is,
    prior: Callable[[Data], Scalar] | None = None,
    **options: Any,
) -> Likelihood:
    """The log-density of one example under the probability-flow ODE.

    Args:
        key: of the probes, drawn once for the solve, and of the cut-off's noise.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: the example, in the network's scale [*event].
        cutoff: from the data to t_min: ``as_is``, ``rescaled`` or ``noised``
            (``likelihood.cutoff``).
        prior: log-density at t_max, by default that of N(0, prior_std^2 I).
        **options: fields of ``likelihood.Flow``: divergence, tolerance, solver, ts, coordinates,
            sigma_data, max_steps, adjoint.

    Returns:
        The report.

    Raises:
        ValueError: for an empty example, a tolerance that is not positive, times that do not fall,
            or coordinates that are not finite at an end.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 39 and appendix D.2.
    """
    flow = flow_of(**options)
    probe_key, noise_key = jax.random.split(key)
    start, term, calls = cutoff(noise_key, sde, denoiser, x)
    solved = solve(flow, probe_key, sde, denoiser, start, backward=False)
    solved = solved._replace(nfe=solved.nfe + calls)
    return _report(flow, sde, solved, solved.x, prior, term)


def sample_and_log_prob(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    latent: Data,
    *,
    prior: Callable[[Data], Scalar] | None = None,
    **options: Any,
) -> tuple[Data, Likelihood]:
    """A sample and its log-density in one solve from t_max to t_min.

    ``log_likelihood`` of the sample with the same key, hence the same probes, gives the latent and
    the density back to the tolerance.

    Args:
        key: of the probes.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        latent: the state at t_max, e.g. of ``prior_sample``, [*event].
        prior, **options: as of ``log_likelihood``.

    Returns:
        x at t_min [*event], without a last denoising step, which would change its density; and the
        report, whose cut-off is 0.

    Raises:
        ValueError: as ``log_likelihood``.
    """
    flow = flow_of(**options)
    probe_key, _ = jax.random.split(key)
    solved = solve(flow, probe_key, sde, denoiser, latent, backward=True)
    return solved.x, _report(flow, sde, solved, latent, prior, jnp.zeros((), latent.dtype))


def _report(
    flow: Flow,
    sde: SDE,
    solved: Solved,
    latent: Data,
    prior: Callable[[Data], Scalar] | None,
    cutoff: Scalar,
) -> Likelihood:
    """Puts the parts together."""
    log_prior = prior_log_prob(sde, latent) if prior is None else prior(latent)
    change = jnp.mean(solved.growth)
    log_p = log_prior + change + cutoff
    result = jnp.where(jnp.isfinite(log_p), solved.result, NOT_FINITE).astype(jnp.int32)
    log_p = jnp.where(result == SUCCESS, log_p, jnp.nan)  # no number of a solve that failed
    size = latent.size
    error = divergence_of(flow, size).error(solved.growth, size)
    return Likelihood(
        log_p, -log_p / (size * math.log(2.0)), error, latent, log_prior, change, cutoff,
        solved.nfe, result,
    )  # fmt: skip
