"""The samplers by name: how each is made, what it claims, and when to use it.

The claims (order, evaluations, randomness) are what ``tests/samplers/test_contracts.py`` holds
every row to, and the table in the documentation is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sdejax import coordinates, dynamics, grids
from sdejax.samplers.adams import deis, exponential_adams, lms, t_deis
from sdejax.samplers.adaptive import gotta_go_fast
from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama, reverse_diffusion
from sdejax.samplers.annealed import annealed_langevin
from sdejax.samplers.base import Method, Sampler, on_grid, require_steps
from sdejax.samplers.corrector import predictor_corrector
from sdejax.samplers.diffeq import ode, reverse_sde
from sdejax.samplers.dpm_solver import dpmpp_2m, dpmpp_3m
from sdejax.samplers.heun import heun
from sdejax.samplers.restart import Interval, restart
from sdejax.samplers.singlestep import dpm_solver, dpmpp_singlestep, seeds
from sdejax.samplers.solvers import SOLVERS
from sdejax.samplers.unipc import unipc


class Entry(NamedTuple):
    """A sampler of the table."""

    method: Callable[[int | None, grids.Grid], Method]  # steps (None: its own choice), grid
    order: int | float | None  # ODE: of the error; SDE: strong; None where nothing is claimed
    evaluations: int  # of the network a step
    deterministic: bool
    use: str

    @property
    def kind(self) -> str:
        """ "ODE" or "SDE"."""
        return "ODE" if self.deterministic else "SDE"


def _grid(
    sampler: Sampler, steps: int, order: int | float | None, deterministic: bool, use: str
) -> Entry:
    """A sampler on a grid, of ``steps`` steps where none are asked for."""
    return Entry(
        lambda n, grid: on_grid(sampler, steps if n is None else n, grid),
        order,
        sampler.evaluations,
        deterministic,
        use,
    )


def _diffrax(
    make: Callable[..., Method],
    solver: str,
    steps: int | None,
    order: int | float,
    evaluations: int,
    use: str,
    **options: Any,
) -> Entry:
    """A diffrax solver, adaptive where no steps are asked for unless ``steps`` says otherwise."""
    return Entry(
        lambda n, grid: make(SOLVERS[solver](), steps if n is None else n, grid, **options),
        order,
        evaluations,
        make is ode,
        use,
    )


def _adaptive(method: Method, evaluations: int, deterministic: bool, use: str) -> Entry:
    """A method that has no fixed steps; asking it for some is refused."""

    def without_steps(n, grid):
        require_steps(n)
        if n is not None:
            raise ValueError(f"steps: got {n} for a sampler that only adapts its own; leave it out")
        return method

    return Entry(without_steps, None, evaluations, deterministic, use)


# (repeats, steps, low, high) in sigma/alpha: twice two steps between 0.06 and 0.3.
RESTARTS = [Interval(2, 2, 0.06, 0.3)]

SAMPLERS: Mapping[str, Entry] = {
    # One evaluation a step, remembering the last few.
    "ddim": _grid(ddim(), 50, 1, True, "any network, any number of steps; the baseline"),
    "lms_2": _grid(lms(2), 30, 2, True, "as lms_4, where few evaluations have been gathered"),
    "lms_3": _grid(lms(3), 30, 3, True, "as lms_4"),
    "lms_4": _grid(lms(4), 30, 4, True, "keeps its order on a grid that ends at sigma = 0"),
    "deis_2": _grid(deis(2), 20, 2, True, "as deis_3, more cautious"),
    "deis_3": _grid(deis(3), 15, 3, True, "8 to 20 evaluations on a log-SNR grid"),
    "deis_4": _grid(deis(4), 20, 4, True, "15 to 30 evaluations on a log-SNR grid"),
    "t_deis_3": _grid(t_deis(3), 20, 3, True, "VP processes on uniform or quadratic times"),
    "exponential_adams_2": _grid(exponential_adams(2), 20, 2, True, "x0, v or velocity networks"),
    "exponential_adams_3": _grid(
        exponential_adams(3), 20, 3, True, "10 to 30 evaluations, log-SNR"
    ),
    "dpmpp_2m": _grid(dpmpp_2m(), 20, 2, True, "strong guidance; the usual default elsewhere"),
    "dpmpp_3m": _grid(dpmpp_3m(), 20, 2, True, "as published: order 2 with a small error"),
    "unipc_1": _grid(unipc(1), 20, 2, True, "strong guidance in few evaluations"),
    "unipc_2_bh1": _grid(
        unipc(2, "bh1"), 20, 3, True, "as unipc_2; the papers' unconditional B(h)"
    ),
    "unipc_2": _grid(unipc(2), 20, 3, True, "few evaluations with guidance"),
    "unipc_3": _grid(unipc(3), 20, 4, True, "15 to 50 evaluations"),
    "unipc_4": _grid(unipc(4), 40, 5, True, "30 evaluations and more on a log-SNR grid"),
    # Several evaluations a step, none remembered.
    "dpm_solver_2": _grid(dpm_solver(2), 20, 2, True, "eps networks; steps chosen freely"),
    "dpm_solver_3": _grid(dpm_solver(3), 15, 3, True, "eps networks, 30 evaluations and more"),
    "dpmpp_2s": _grid(dpmpp_singlestep(2), 20, 2, True, "x0 with guidance, no memory of steps"),
    "dpmpp_3s": _grid(dpmpp_singlestep(3), 15, 3, True, "as dpmpp_2s, 30 evaluations and more"),
    "heun": _grid(heun(), 18, 2, True, "EDM's sampler: smooth networks, nothing to tune"),
    # Diffrax in t: adaptive per example without steps.
    "euler": _diffrax(ode, "euler", 100, 1, 1, "flow matching as its papers sample"),
    "tsit5": _diffrax(ode, "tsit5", None, 5, 6, "the adaptive default"),
    "dopri5": _diffrax(ode, "dopri5", None, 5, 6, "as most papers' adaptive sampler"),
    "tsit5_log_noise": _diffrax(
        ode,
        "tsit5",
        None,
        5,
        6,
        "adaptive on wide noise ranges (VE, EDM)",
        coordinates=coordinates.log_noise,
    ),
    "tsit5_log_data": _diffrax(
        ode,
        "tsit5",
        None,
        5,
        6,
        "the same for x0, v and velocity networks",
        coordinates=coordinates.log_data,
    ),
    "gotta_go_fast_ode": _adaptive(gotta_go_fast(dynamics.no_noise), 2, True, "loose tolerances"),
    "dopri8": _diffrax(ode, "dopri8", None, 8, 13, "tight tolerances, reference solutions"),
    # Stochastic.
    "ancestral": _grid(ancestral(), 250, 1, False, "DDPM, SDE-DPM-Solver++(1); many steps"),
    "dpmpp_2m_sde": _grid(dpmpp_2m(eta=1.0), 50, 1, False, "20 to 100 evaluations"),
    "seeds_1": _grid(seeds(1), 100, 1, False, "eps networks"),
    "seeds_2": _grid(seeds(2), 50, 1, False, "eps networks, 50 to 200 evaluations"),
    "seeds_3": _grid(seeds(3), 40, 1, False, "eps networks, 100 evaluations and more"),
    "reverse_diffusion": _grid(
        reverse_diffusion(), 500, None, False, "score SDE's predictor; many steps"
    ),
    "euler_maruyama": _grid(euler_maruyama(), 500, 1, False, "the plain reverse SDE; many steps"),
    "sigma_noise": _grid(
        euler_maruyama(dynamics.sigma_noise), 250, 1, False, "w^2 = 2 sigma: the linear path"
    ),
    "heun_churn": _grid(
        heun(40.0, 0.05, 50.0, 1.003), 128, None, False, "EDM's churn: washes out network errors"
    ),
    "restart": Entry(
        lambda n, grid: restart(RESTARTS, 18 if n is None else n, grid),
        None,
        2,
        False,
        "as heun_churn in fewer evaluations; its 8 extra ones are fixed",
    ),
    "predictor_corrector": _grid(
        predictor_corrector(reverse_diffusion()), 500, None, False, "score SDE's PC: images, many"
    ),
    "predictor_corrector_0.17": _grid(
        predictor_corrector(reverse_diffusion(), 0.17), 500, None, False, "as published: CelebA 64"
    ),
    "predictor_corrector_0.075": _grid(
        predictor_corrector(reverse_diffusion(), 0.075), 500, None, False, "the same, 256 pixels"
    ),
    "predictor_corrector_0.15": _grid(
        predictor_corrector(reverse_diffusion(), 0.15), 500, None, False, "the same, 1024 pixels"
    ),
    "annealed_langevin": _grid(
        annealed_langevin(5), 200, None, False, "NCSNv2: fine geometric levels (VE, uniform)"
    ),
    "annealed_langevin_100": _grid(
        annealed_langevin(100, 0.2), 9, None, False, "as in NCSN's paper: ten levels (VE, uniform)"
    ),
    "shark": _diffrax(reverse_sde, "shark", None, 1.5, 2, "adaptive reverse SDE"),
    "shark_data": _diffrax(
        reverse_sde,
        "shark",
        50,
        1.5,
        2,
        "the reverse SDE on a log-SNR grid, its noise exact",
        coordinates=coordinates.data,
    ),
    "gotta_go_fast": _adaptive(gotta_go_fast(), 2, False, "adaptive reverse SDE of images"),
    "sra1": _diffrax(reverse_sde, "sra1", None, 1.5, 2, "adaptive reverse SDE"),
}


def names() -> list[str]:
    """The names of all samplers, for ``sdejax sample --sampler NAME`` and configs.

    Returns:
        The rows of ``SAMPLERS``, in their order.
    """
    return list(SAMPLERS)


def markdown() -> str:
    """The table of all samplers, as in the documentation.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "| sampler | solves | order | evaluations a step | when to use it |",
        "|---|---|---|---|---|",
    ]
    for name, entry in SAMPLERS.items():
        order = "" if entry.order is None else f"{entry.order:g}"
        order = order if entry.deterministic or not order else f"strong {order}"
        lines.append(f"| `{name}` | {entry.kind} | {order} | {entry.evaluations} | {entry.use} |")
    return "\n".join(lines) + "\n"
