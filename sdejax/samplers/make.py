"""From a model and a method to one jitted function that draws a batch.

A ``Method`` runs one example; the constructors here bind a sampler to a grid, or a diffrax solver
to its steps. ``make_sampler`` adds the batch axis once, by ``vmap`` over the examples' indices: an
example's noise depends on its index alone, not on the batch or on the devices it is drawn with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import jax
from jaxtyping import Array, Float, Int

from sdejax import grids
from sdejax.denoiser import Model, make_denoiser
from sdejax.dynamics import Noise, require_finite_noise
from sdejax.prediction import Denoiser, require_decodable
from sdejax.samplers.base import Sampler, Stats, in_float64, sample
from sdejax.samplers.diffeq import solve_ode, solve_sde
from sdejax.sde import SDE, diffusion, prior_sample
from sdejax.types import Cond, Data, Key, Params, Time

Run = Callable[[Key, SDE, Denoiser, Data], tuple[Data, Stats]]
Transform = Callable[[Denoiser, SDE], Denoiser]
SampleFn = Callable[..., tuple[Float[Array, "n *event"], Stats]]


class Method(NamedTuple):
    """How one example is drawn from its prior state."""

    run: Run
    require: Callable[[SDE, Time], None]  # ValueError where it cannot start at t


def on_grid(
    sampler: Sampler,
    steps: int = 50,
    grid: grids.Grid = grids.uniform,
    *,
    save_at: Float[Array, " m"] | None = None,
    denoise: bool = True,
) -> Method:
    """A sampler on a grid of its process.

    Args:
        sampler: e.g. ``ddim()``.
        steps: number of steps.
        grid: where the steps are (``sdejax.grids``).
        save_at: times at which to keep the state (see ``sample``).
        denoise: end with a denoising step, one more evaluation.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step.
    """
    _positive_steps(steps)

    def run(key, sde, denoiser, x):
        ts = in_float64(lambda s: grid(s, steps), x.dtype, sde)
        return sample(key, sampler, sde, denoiser, x, ts, save_at=save_at, denoise=denoise)

    return Method(run, sampler.require)


def ode(
    solver: dfx.AbstractSolver | None = None,
    steps: int | None = None,
    grid: grids.Grid = grids.uniform,
    **options: Any,
) -> Method:
    """The probability-flow ODE by diffrax: a grid of ``steps``, or adaptive where none are given.

    Args:
        solver: a diffrax ODE solver, by default ``Tsit5``.
        steps: number of steps of a fixed grid; None for adaptive steps.
        grid: where fixed steps are.
        **options: further arguments of ``solve_ode``.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step.
    """

    def run(key, sde, denoiser, x):
        ts = _grid_of(steps, grid, sde, x)
        return solve_ode(sde, denoiser, x, solver=solver, ts=ts, **options)

    _positive_steps(steps)
    return Method(run, lambda sde, t: None)


def reverse_sde(
    solver: dfx.AbstractSolver | None = None,
    steps: int | None = None,
    grid: grids.Grid = grids.uniform,
    noise: Noise = diffusion,
    **options: Any,
) -> Method:
    """A reverse process by diffrax: a grid of ``steps``, or adaptive where none are given.

    Args:
        solver: a diffrax SDE solver, by default ``ShARK``.
        steps: number of steps of a fixed grid; None for adaptive steps.
        grid: where fixed steps are.
        noise: w(t), by default g(t).
        **options: further arguments of ``solve_sde``.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step.
    """

    def run(key, sde, denoiser, x):
        ts = _grid_of(steps, grid, sde, x)
        return solve_sde(key, sde, denoiser, x, solver=solver, ts=ts, noise=noise, **options)

    _positive_steps(steps)
    return Method(run, lambda sde, t: require_finite_noise(noise, sde, t))


def make_sampler(
    model: Model,
    method: Method,
    event_shape: tuple[int, ...],
    *,
    transform: Transform | None = None,
    dtype: Any = None,
) -> SampleFn:
    """One jitted function that draws a batch of examples.

    Args:
        model: network and prediction type.
        method: ``on_grid(...)``, ``ode(...)`` or ``reverse_sde(...)``.
        event_shape: shape of one example.
        transform: a change of the denoiser, e.g. ``clipped(-1, 1)``.
        dtype: floating dtype of the state, by default the working one.

    Returns:
        ``draw(params, sde, key, indices, cond=None)``: indices [n] of the examples to draw, cond
        with leaves [n, ...]; gives x [n, *event] and ``Stats`` of [n]. Example i starts from
        ``fold_in(key, i)``. It compiles once for a batch size; fields of the process may change.

    Raises:
        ValueError: by ``draw``, where the network has no x0 at t_max or the noise is infinite.
    """

    def one(params, sde, key, index, cond):
        prior_key, solve_key = jax.random.split(jax.random.fold_in(key, index))
        denoiser = make_denoiser(model, params, sde, cond)
        denoiser = denoiser if transform is None else transform(denoiser, sde)
        return method.run(
            solve_key, sde, denoiser, prior_sample(prior_key, sde, event_shape, dtype)
        )

    batch = jax.jit(jax.vmap(one, in_axes=(None, None, None, 0, 0)))

    def draw(
        params: Params, sde: SDE, key: Key, indices: Int[Array, " n"], cond: Cond = None
    ) -> tuple[Float[Array, "n *event"], Stats]:
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(sde)):
            require_decodable(model.prediction, sde, sde.t_max)
            method.require(sde, sde.t_max)
        return batch(params, sde, key, indices, cond)

    return draw


def _positive_steps(steps: int | None) -> None:
    if steps is not None and steps < 1:
        raise ValueError(f"steps: got {steps}; expected at least 1")


def _grid_of(steps: int | None, grid: grids.Grid, sde: SDE, x: Data):
    if steps is None:
        return None
    return in_float64(lambda s: grid(s, steps), x.dtype, sde)
