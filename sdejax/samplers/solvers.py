"""What the library knows of diffrax's solvers: names, noise they need, what a step costs."""

from __future__ import annotations

from typing import Any

import diffrax as dfx

# What a solver asks of its Brownian path -> what the path has to be made with.
LEVY_AREAS: dict[Any, Any] = {
    dfx.AbstractBrownianIncrement: dfx.BrownianIncrement,
    dfx.AbstractSpaceTimeLevyArea: dfx.SpaceTimeLevyArea,
    dfx.AbstractSpaceTimeTimeLevyArea: dfx.SpaceTimeTimeLevyArea,
}

# The solvers that commands and configs name.
SOLVERS = {
    "euler": dfx.Euler,
    "heun": dfx.Heun,
    "tsit5": dfx.Tsit5,
    "dopri5": dfx.Dopri5,
    "dopri8": dfx.Dopri8,
    "shark": dfx.ShARK,
    "sra1": dfx.SRA1,
}


def evaluations(solver: dfx.AbstractSolver) -> tuple[int, int]:
    """Evaluations of the vector field by a diffrax solver.

    Args:
        solver: an explicit solver.

    Returns:
        Evaluations a step, and those at the start of a solve: 1 where the last stage of a step is
        the first of the next.

    Raises:
        ValueError: for an implicit solver, whose evaluations depend on its root finder, and for
            one that wraps another.
    """
    if hasattr(solver, "root_finder") or isinstance(solver, dfx.AbstractWrappedSolver):
        raise ValueError(
            f"solver: got the implicit or wrapped {type(solver).__name__}; expected an explicit "
            "one (Euler, Heun, Tsit5, Dopri8, ...), whose evaluations can be counted"
        )
    tableau = getattr(solver, "tableau", None)
    if tableau is None:
        return 1, int(isinstance(solver, dfx.ReversibleHeun))
    first_same_as_last = getattr(tableau, "fsal", False)
    # Some stages of stochastic solvers (GeneralShARK, SlowRK) have noise only.
    ignored = getattr(tableau, "ignore_stage_f", None)
    skipped = 0 if ignored is None else sum(map(bool, ignored))
    return len(tableau.b_sol) - skipped - first_same_as_last, int(first_same_as_last)
