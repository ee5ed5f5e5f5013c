"""The likelihoods of flow_matching and k-diffusion on the same mixtures and networks.

flow_matching has the straight path x_t = t x_1 + (1 - t) x_0 with data at t = 1 and the prior
N(0, I) at 0, and starts at the data themselves; its trace is exact or by one Rademacher probe.
k-diffusion has x = x_0 + sigma eps from sigma_min to sigma_max and one probe. Both solve with
torchdiffeq's dopri5, whose steps are chosen for a whole batch; a counter counts calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.densities import Level
from benchmarks.peers import k_sampling
from benchmarks.problems import SIGMA_MAX, SIGMA_MIN, Problem

LEVELS: dict[str, tuple[Level, Level]] = {
    "flow_matching": ((1.0, 0.0), (0.0, 1.0)),
    "k-diffusion": ((1.0, SIGMA_MIN), (1.0, SIGMA_MAX)),
}
Field = Callable[..., torch.Tensor]


def velocity(problem: Problem) -> Field:
    """(x [n, d], t []) -> E[x_1 - x_0] of the straight path, for round components."""
    posterior = _posterior(problem)

    def field(x, t, **extras):
        field.calls += 1
        share, away, variance, means, spread = posterior(x, t, 1.0 - t)
        slope = (t * spread - (1.0 - t)) / variance
        return torch.einsum("nk,nkd->nd", share, means + slope[:, None] * away)

    field.calls = 0
    return field


def denoiser(problem: Problem) -> Field:
    """(x [n, d], sigma [n], all equal) -> E[x_0 | x], for round components."""
    posterior = _posterior(problem)

    def field(x, sigma, **extras):
        field.calls += 1
        share, away, variance, means, spread = posterior(x, 1.0, sigma.reshape(-1)[0])
        return torch.einsum("nk,nkd->nd", share, means + (spread / variance)[:, None] * away)

    field.calls = 0
    return field


def _posterior(problem: Problem) -> Callable:
    if not np.all(problem.stds == problem.stds[:, :1]):
        raise ValueError(f"{problem.name}: got components that are not round")
    means = torch.tensor(problem.means)
    spread = torch.tensor(problem.stds[:, 0] ** 2)
    log_weights = torch.tensor(np.log(problem.weights))

    def posterior(x, alpha, sigma):
        variance = alpha**2 * spread + sigma**2
        away = x[:, None] - alpha * means
        logits = -0.5 * (torch.sum(away**2, -1) / variance + means.shape[1] * torch.log(variance))
        return torch.softmax(log_weights + logits, -1), away, variance, means, spread

    return posterior


def flow_matching(field: Field, x: torch.Tensor, tolerance: float, *, exact: bool) -> torch.Tensor:
    """log p [n] in nats by ``ODESolver.compute_likelihood``."""
    from flow_matching.solver import ODESolver

    def log_prior(z):
        return -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)

    return (
        ODESolver(velocity_model=field)
        .compute_likelihood(
            x_1=x,
            log_p0=log_prior,
            step_size=None,
            method="dopri5",
            atol=tolerance,
            rtol=tolerance,
            time_grid=torch.tensor([1.0, 0.0], dtype=x.dtype),
            exact_divergence=exact,
        )[1]
        .detach()
    )


def k_diffusion(
    field: Field, x: torch.Tensor, tolerance: float, ends: tuple[float, float] | None = None
) -> torch.Tensor:
    """log p [n] in nats by ``k_diffusion.sampling.log_likelihood``, one probe."""
    low, high = ends or (SIGMA_MIN, SIGMA_MAX)
    found, _ = k_sampling().log_likelihood(field, x, low, high, atol=tolerance, rtol=tolerance)
    return found.detach()


def run(
    library: str, problem: Problem, x: np.ndarray, tolerance: float, *, exact: bool, seed: int = 0
) -> tuple[np.ndarray, int]:
    """log p of a batch in float64, and the evaluations, which its examples share.

    Args:
        library: a key of ``LEVELS``.
        problem: the mixture.
        x: states where the library starts [n, d].
        tolerance: relative and absolute.
        exact: the trace; k-diffusion has one probe alone.
        seed: of the probe.
    """
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    if library == "flow_matching":
        field = velocity(problem)
        log_p = flow_matching(field, torch.tensor(x), tolerance, exact=exact)
    else:
        field = denoiser(problem)
        log_p = k_diffusion(field, torch.tensor(x), tolerance)
    return log_p.numpy(), field.calls
