"""Samplers: fixed-grid methods, diffrax solvers, learned solvers and what draws a batch.

``samplers.names()`` lists them for commands and configs; docs/samplers.md says which to use.
"""

from sdejax.samplers.adams import deis, exponential_adams, lms, t_deis
from sdejax.samplers.adaptive import gotta_go_fast
from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama, reverse_diffusion
from sdejax.samplers.annealed import annealed_langevin
from sdejax.samplers.base import Method, Sampler, Stats, check, on_grid, sample
from sdejax.samplers.catalog import names
from sdejax.samplers.corrector import predictor_corrector
from sdejax.samplers.diffeq import ode, reverse_sde, solve_ode, solve_sde
from sdejax.samplers.dpm_solver import dpmpp_2m, dpmpp_3m
from sdejax.samplers.fitting import Pairs, draw_pairs, fit_solver
from sdejax.samplers.heun import heun
from sdejax.samplers.langevin import hmc, mala, mcmc, unadjusted_langevin, underdamped_langevin
from sdejax.samplers.learned import Solver, as_solver, learned, load_solver, save_solver
from sdejax.samplers.make import make_sampler
from sdejax.samplers.restart import restart
from sdejax.samplers.singlestep import dpm_solver, dpmpp_singlestep, seeds
from sdejax.samplers.tuning import optimize_grid
from sdejax.samplers.unipc import unipc

__all__ = [
    "Method",
    "Pairs",
    "Sampler",
    "Solver",
    "Stats",
    "ancestral",
    "annealed_langevin",
    "as_solver",
    "check",
    "ddim",
    "deis",
    "dpm_solver",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_singlestep",
    "draw_pairs",
    "euler_maruyama",
    "exponential_adams",
    "fit_solver",
    "gotta_go_fast",
    "heun",
    "hmc",
    "learned",
    "lms",
    "load_solver",
    "make_sampler",
    "mala",
    "mcmc",
    "names",
    "ode",
    "on_grid",
    "optimize_grid",
    "predictor_corrector",
    "restart",
    "reverse_diffusion",
    "reverse_sde",
    "sample",
    "save_solver",
    "seeds",
    "solve_ode",
    "solve_sde",
    "t_deis",
    "unadjusted_langevin",
    "underdamped_langevin",
    "unipc",
]
