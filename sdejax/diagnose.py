"""The diagnostics of a trained model on data it has not seen, and their table."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float, Int

from sdejax.build import Parts
from sdejax.denoiser import make_denoiser
from sdejax.diagnostics import Diagnosis, times
from sdejax.diagnostics import diagnose as diagnose_score
from sdejax.types import Params

EXACT = 16  # entries up to which Jacobians are taken whole


def examine(
    parts: Parts,
    params: Params,
    x: Float[np.ndarray, "n *event"],
    labels: Int[np.ndarray, " n"] | None = None,
    *,
    levels: int = 12,
    probes: int | None = None,
    chunk: int = 64,
    seed: int = 0,
) -> Diagnosis:
    """What is wrong with a model's score, from t_min up to the noise.

    Args:
        parts: process, network and shape of an example.
        params: its parameters.
        x: data that it has not seen, in the network's range [n, *event], n >= 2.
        labels: their classes [n], of a conditional model.
        levels: times, evenly in log-SNR.
        probes: random directions for Jacobians, at least 2, or 0 for all of them; by default all
            for events of at most 16 entries, and 4 for larger ones.
        chunk: examples to hold in memory at once.
        seed: of noise and probes.

    Returns:
        ``Diagnosis`` of [levels], on the host.

    Raises:
        ValueError: for events of another shape, labels that the model does not have or lacks, one
            probe, or fewer than two examples.
    """
    event = tuple(x.shape[1:])
    if event != tuple(parts.event_shape):
        raise ValueError(
            f"x: got examples of shape {list(event)}; expected {list(parts.event_shape)}"
        )
    if (labels is None) != (parts.num_classes is None):
        raise ValueError(
            f"labels: got {'none' if labels is None else 'some'}, but the model has "
            f"{parts.num_classes or 'no'} classes"
        )
    if probes is None:
        probes = 0 if x[0].size <= EXACT else 4

    @jax.jit
    def found(params, sde, key, x, cond):
        def denoiser(x, t, cond=None):
            return make_denoiser(parts.model, params, sde, cond)(x, t)

        ts = times(sde, levels).astype(x.dtype)
        return diagnose_score(key, denoiser, sde, x, ts, cond, probes=probes or None, chunk=chunk)

    return jax.device_get(found(params, parts.sde, jax.random.key(seed), x, labels))


def table(found: Diagnosis) -> str:
    """The numbers with their standard errors, a line for each time.

    Args:
        found: from ``examine``.

    Returns:
        The table, with its heading.
    """
    asymmetry, residual = found.asymmetry.ratio, found.residual.scaled
    heads = ("error", "slope (1)", "asymmetry (0)", "residual^2 (0)", "Stein gap (0)")
    means = (
        found.calibration.mse, found.calibration.slope, asymmetry, residual, found.stein.gap,
    )  # fmt: skip
    lines = [f"{'t':>8} {'log-SNR':>8} " + " ".join(f"{head:>19}" for head in heads)]
    for i, (t, level) in enumerate(zip(found.stein.t, found.stein.log_snr, strict=True)):
        cells = (f"{mean.value[i]:.3g} +- {mean.error[i]:.1g}" for mean in means)
        lines.append(f"{t:8.3g} {level:8.2f} " + " ".join(f"{cell:>19}" for cell in cells))
    return "\n".join(lines)
