"""Ground truth: distributions whose noised densities are known exactly, to hold methods against.

Gaussians, mixtures of them (full, low-rank or isotropic covariances, any event shape) and the
empirical measure of a data set are one type, ``Mixture``. For each: density, score, posterior
means, velocity, samples at any time of any process, and trajectories of the probability-flow ODE.
``truth.problems`` holds fixed mixtures to measure methods on.
"""

from sdejax.truth import problems
from sdejax.truth.distributions import (
    Mixture,
    covariance,
    empirical,
    gaussian,
    isotropic,
    low_rank,
    mean,
    mixture,
    reshaped,
    sigma_data,
)
from sdejax.truth.noised import (
    denoiser,
    estimate,
    gaussian_flow,
    log_prob,
    sample,
    sample_at,
    score,
    velocity,
)
from sdejax.truth.trajectories import reference

__all__ = [
    "Mixture",
    "covariance",
    "denoiser",
    "empirical",
    "estimate",
    "gaussian",
    "gaussian_flow",
    "isotropic",
    "log_prob",
    "low_rank",
    "mean",
    "mixture",
    "problems",
    "reference",
    "reshaped",
    "sample",
    "sample_at",
    "score",
    "sigma_data",
    "velocity",
]
