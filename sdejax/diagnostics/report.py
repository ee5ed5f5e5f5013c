"""All diagnostics of a score in one call."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from sdejax.diagnostics.asymmetry import Asymmetry, asymmetry
from sdejax.diagnostics.calibration import Calibration, calibration
from sdejax.diagnostics.levels import ConditionalDenoiser, Levels, times
from sdejax.diagnostics.residual import Residual, residual
from sdejax.diagnostics.stein import Stein, stein
from sdejax.sde import SDE
from sdejax.types import Cond, Key


class Diagnosis(NamedTuple):
    """What is wrong with a score, at m times."""

    calibration: Calibration
    asymmetry: Asymmetry
    residual: Residual
    stein: Stein


def diagnose(
    key: Key,
    denoiser: ConditionalDenoiser,
    sde: SDE,
    x0: Float[Array, "n *event"],
    ts: Levels | None = None,
    cond: Cond = None,
    *,
    exact: ConditionalDenoiser | None = None,
    probes: int | None = None,
    chunk: int = 256,
) -> Diagnosis:
    """Calibration, asymmetry, Fokker-Planck residual and Stein's identity.

    A model's denoiser is ``make_denoiser(model, params, sde)``, or with conditions
    ``lambda x, t, cond: make_denoiser(model, params, sde, cond)(x, t)``. Under ``jit`` let params
    be an argument of the jitted function.

    Args:
        key: key of noise and probes.
        denoiser: (x, t) -> ``Estimate``, or (x, t, cond) where ``cond`` is given.
        sde: the process.
        x0: data that the network has not seen, in its own range [n, *event], n >= 2.
        ts: times with sigma > 0 [m]; by default 12, evenly in log-SNR.
        cond: conditions, with leaves [n, ...], or None.
        exact: the exact denoiser where it is known; called as ``denoiser``.
        probes: random directions for traces and Jacobians, at least 2; by default all d of them,
            which costs d^2 tangents for the residual: for events of few entries.
        chunk: examples to hold in memory at once.

    Returns:
        ``Diagnosis``, of NamedTuples of [m].

    Raises:
        ValueError: for one probe, fewer than two examples, no times, or a chunk below 1.
    """
    ts = times(sde, 12) if ts is None else ts
    keys = jax.random.split(key, 4)
    args = (denoiser, sde, x0, ts, cond)
    return Diagnosis(
        calibration(keys[0], *args, exact=exact, chunk=chunk),
        asymmetry(keys[1], *args, probes=probes, chunk=chunk),
        residual(keys[2], *args, probes=probes, chunk=chunk),
        stein(keys[3], *args, probes=probes, chunk=chunk),
    )
