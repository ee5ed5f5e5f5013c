"""sdejax: generative models on stochastic and ordinary differential equations in JAX.

    import sdejax
    from sdejax import prediction, processes, samplers, truth

A noising process is two functions (``processes``), a network's output is two coefficients of data
and noise (``prediction``), and everything else - losses, samplers, solvers - is derived from them.
"""

from sdejax import (
    conditioning,
    coordinates,
    denoiser,
    diagnostics,
    divergence,
    dynamics,
    energy,
    fokker_planck,
    grids,
    likelihood,
    losses,
    prediction,
    processes,
    samplers,
    sde,
    times,
    truth,
    weights,
)
from sdejax.denoiser import Model, init_linen, linen_functions, make_denoiser, make_model
from sdejax.likelihood import (
    Likelihood,
    log_likelihood,
    make_log_likelihood,
    sample_and_log_prob,
)
from sdejax.losses import denoising_loss, make_loss
from sdejax.prediction import Denoiser, Estimate
from sdejax.processes import cosine, edm, rectified_flow, sub_vp, ve, vp
from sdejax.samplers import Stats, check, make_sampler, sample, solve_ode, solve_sde
from sdejax.sde import (
    SDE,
    Coefficients,
    coefficients,
    diffusion,
    drift,
    log_snr,
    perturb,
    prior_log_prob,
    prior_sample,
)

__version__ = "0.1.0"

__all__ = [
    "SDE",
    "Coefficients",
    "Denoiser",
    "Estimate",
    "Likelihood",
    "Model",
    "Stats",
    "check",
    "coefficients",
    "conditioning",
    "coordinates",
    "cosine",
    "denoiser",
    "denoising_loss",
    "diagnostics",
    "diffusion",
    "divergence",
    "drift",
    "dynamics",
    "edm",
    "energy",
    "fokker_planck",
    "grids",
    "init_linen",
    "likelihood",
    "linen_functions",
    "log_likelihood",
    "log_snr",
    "losses",
    "make_denoiser",
    "make_log_likelihood",
    "make_loss",
    "make_model",
    "make_sampler",
    "perturb",
    "prediction",
    "prior_log_prob",
    "prior_sample",
    "processes",
    "rectified_flow",
    "sample",
    "sample_and_log_prob",
    "samplers",
    "sde",
    "solve_ode",
    "solve_sde",
    "sub_vp",
    "times",
    "truth",
    "ve",
    "vp",
    "weights",
]
