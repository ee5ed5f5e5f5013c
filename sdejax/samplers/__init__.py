"""Samplers: fixed-grid methods, diffrax solvers and the function that draws a batch."""

from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama, reverse_diffusion
from sdejax.samplers.base import Method, Sampler, Stats, check, on_grid, sample
from sdejax.samplers.diffeq import ode, reverse_sde, solve_ode, solve_sde
from sdejax.samplers.make import make_sampler

__all__ = [
    "Method",
    "Sampler",
    "Stats",
    "ancestral",
    "check",
    "ddim",
    "euler_maruyama",
    "make_sampler",
    "ode",
    "on_grid",
    "reverse_diffusion",
    "reverse_sde",
    "sample",
    "solve_ode",
    "solve_sde",
]
