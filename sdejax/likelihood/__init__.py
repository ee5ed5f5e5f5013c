"""Likelihoods in nats and bits: by the probability-flow ODE, by bounds, of discrete data."""

from sdejax.likelihood.cutoff import as_is, noised, rescaled
from sdejax.likelihood.flow import Flow
from sdejax.likelihood.ode import Likelihood, log_likelihood, sample_and_log_prob

__all__ = [
    "Flow",
    "Likelihood",
    "as_is",
    "log_likelihood",
    "noised",
    "rescaled",
    "sample_and_log_prob",
]
