"""Samplers: fixed-grid methods, diffrax solvers and the function that draws a batch."""

from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama, reverse_diffusion
from sdejax.samplers.base import Sampler, Stats, check, sample
from sdejax.samplers.diffeq import solve_ode, solve_sde
from sdejax.samplers.make import Method, make_sampler, ode, on_grid, reverse_sde

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
