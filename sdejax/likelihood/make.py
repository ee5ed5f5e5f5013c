"""From a model to one jitted function that gives the log-densities of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from sdejax.denoiser import Model, make_denoiser
from sdejax.likelihood.ode import Likelihood, log_likelihood
from sdejax.prediction import require_decodable
from sdejax.samplers.make import once_per_value
from sdejax.sde import SDE
from sdejax.types import Cond, Key, Params

LikelihoodFn = Callable[..., Likelihood]


def make_log_likelihood(model: Model, **options: Any) -> LikelihoodFn:
    """One jitted function that gives the reports of a batch.

    Args:
        model: network and prediction type.
        **options: of ``log_likelihood``: cutoff, prior, divergence, tolerance, solver, ts,
            coordinates, sigma_data, max_steps, adjoint.

    Returns:
        ``evaluate(params, sde, key, x, indices, cond=None)``: examples x [n, *event] in the
        network's scale, their indices [n] and cond with leaves [n, ...]; gives ``Likelihood`` of
        [n]. Example i draws its probes from ``fold_in(key, indices[i])``, whatever it is evaluated
        with. It compiles once for a batch size; fields of the process may change. A solve that
        fails is told by its result code: ``samplers.check`` raises for it.

    Raises:
        ValueError: by ``evaluate``, where the prediction type is singular at t_min or t_max, or
            for shapes that are not those of a batch.
    """

    def one(params, sde, key, x, index, cond):
        denoiser = make_denoiser(model, params, sde, cond)
        return log_likelihood(jax.random.fold_in(key, index), sde, denoiser, x, **options)

    batch = jax.jit(jax.vmap(one, in_axes=(None, None, None, 0, 0, 0)))

    @once_per_value
    def require(sde: SDE) -> None:
        for t in (sde.t_min, sde.t_max):
            require_decodable(model.prediction, sde, t)

    def evaluate(
        params: Params,
        sde: SDE,
        key: Key,
        x: Float[Array, "n *event"],
        indices: Int[Array, " m"],  # m = n, checked by name
        cond: Cond = None,
    ) -> Likelihood:
        require(sde)
        if x.ndim < 2 or indices.shape != x.shape[:1]:
            raise ValueError(
                f"x: got shape {list(x.shape)} with indices {list(indices.shape)}; expected "
                "[n, *event] and [n]"
            )
        return batch(params, sde, key, x, indices, cond)

    return evaluate
