"""Likelihoods in nats and bits: by the probability-flow ODE, by bounds, of discrete data.

``log_likelihood`` is the density of the ODE, ``data_bound`` and ``chain_bound`` bound that of the
reverse SDE and of DDPM's chain, ``discrete_bound`` makes probabilities of integers out of either.
"""

from sdejax.likelihood.chain import ChainBound, chain_bound
from sdejax.likelihood.cutoff import as_is, noised, rescaled
from sdejax.likelihood.dequantisation import (
    Dequantiser,
    DiscreteBound,
    discrete_bound,
    uniform,
    variational,
)
from sdejax.likelihood.elbo import Bound, data_bound, state_bound
from sdejax.likelihood.flow import Flow
from sdejax.likelihood.make import make_log_likelihood
from sdejax.likelihood.ode import Likelihood, log_likelihood, sample_and_log_prob
from sdejax.likelihood.quantisation import Quantisation, quantisation, require_levels
from sdejax.likelihood.reversible import Reversible
from sdejax.likelihood.training import make_likelihood_loss

__all__ = [
    "Bound",
    "ChainBound",
    "Dequantiser",
    "DiscreteBound",
    "Flow",
    "Likelihood",
    "Quantisation",
    "Reversible",
    "as_is",
    "chain_bound",
    "data_bound",
    "discrete_bound",
    "log_likelihood",
    "make_likelihood_loss",
    "make_log_likelihood",
    "noised",
    "quantisation",
    "require_levels",
    "rescaled",
    "sample_and_log_prob",
    "state_bound",
    "uniform",
    "variational",
]
