"""A few-step solver for a trained model: pairs of its own accurate samples, and a fit to them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax import grids
from sdejax.build import Parts
from sdejax.denoiser import make_denoiser
from sdejax.samplers.dpm_solver import dpmpp_2m
from sdejax.samplers.fitting import draw_pairs, fit_solver, require_enough
from sdejax.samplers.learned import Solver, as_solver
from sdejax.sde import log_snr
from sdejax.thresholding import Transform
from sdejax.types import Params


def fit(
    parts: Parts,
    params: Params,
    evaluations: int,
    *,
    transform: Transform | None = None,
    pairs: int = 256,
    iterations: int = 300,
    batch: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Solver, Float[Array, " checks"]]:
    """A solver of N evaluations fitted to a model, from DPM-Solver++(2M).

    Args:
        parts: process, network and shape of an example.
        params: its parameters.
        evaluations: N, of the network per sample.
        transform: of the denoiser, as in sampling.
        pairs: accurate solutions to learn from; a quarter of them is held out. A conditional model
            takes each class in turn.
        iterations: gradient steps.
        batch: pairs a step.
        seed: of the pairs, whose noise no sampling of any seed draws, and of the batches.
        progress: show a bar.

    Returns:
        The solver and its losses on the held-out pairs [checks], the first before the fit.

    Raises:
        ValueError: for fewer than two evaluations, eight pairs or one iteration.
    """
    sde, classes = parts.sde, parts.num_classes
    require_enough(evaluations, pairs, iterations)  # before pairs are drawn

    def denoisers(cond):
        plain = make_denoiser(parts.model, params, sde, cond)
        return plain if transform is None else transform(plain, sde)

    cond = None if classes is None else jnp.arange(pairs) % classes
    pairs_key, fit_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    found = draw_pairs(pairs_key, sde, denoisers, parts.event_shape, pairs, cond)
    finite = bool(jnp.isfinite(log_snr(sde, jnp.asarray(sde.t_max, found.x.dtype))))
    grid = grids.uniform_log_snr if finite else grids.uniform
    start = as_solver(dpmpp_2m(), sde, grid(sde, evaluations - 1))
    return fit_solver(
        fit_key, start, sde, denoisers, found, iterations=iterations, batch=batch, progress=progress
    )
