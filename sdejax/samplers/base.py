"""What every sampler shares: the interface, the loop over a grid, and the report.

A ``Sampler`` is a few pure functions, like an optax transform. ``prepare`` turns a grid of times
into rows of per-step coefficients, once and in float64; ``step`` goes from t to s < t with one row.
``sample`` scans the rows for one example, so memory does not grow with the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sdejax import grids
from sdejax.prediction import Denoiser
from sdejax.sde import SDE, Coefficients, coefficients
from sdejax.types import Data, Key, Scalar, Time, Times

State = Any
Rows = Any
Row = Any

SUCCESS, MAX_STEPS, NOT_FINITE = 0, 1, 2
MESSAGES = {
    MAX_STEPS: "ran out of steps: raise max_steps or loosen the tolerances",
    NOT_FINITE: "met a value that is not finite: the network or the process is not finite there",
}


class Stats(NamedTuple):
    """The report of a solve, per example."""

    nfe: Int[Array, "*batch"]  # calls of the denoiser, rejected steps included
    result: Int[Array, "*batch"]  # SUCCESS, MAX_STEPS or NOT_FINITE
    saved: Any = None  # the states at ``save_at``, [*batch, len(save_at), *event]


@runtime_checkable
class Reported(Protocol):
    """Any report with result codes."""

    @property
    def result(self) -> Any:
        """SUCCESS, MAX_STEPS or NOT_FINITE, [*batch]."""


class Sampler(NamedTuple):
    """A method with a fixed grid."""

    prepare: Callable[[SDE, Times], Rows]  # [n + 1] decreasing times -> rows with leaves [n, ...]
    init: Callable[[Data], State]
    step: Callable[[Denoiser, Key, State, Row], State]  # t -> s
    final: Callable[[State], Data]
    evaluations: int = 1  # denoiser calls a step
    require: Callable[[SDE, Time], None] = lambda sde, t: None  # ValueError: cannot start at t


Run = Callable[[Key, SDE, Denoiser, Data], tuple[Data, Stats]]


class Method(NamedTuple):
    """How one example is drawn from its prior state."""

    run: Run
    require: Callable[[SDE, Time], None]  # ValueError where it cannot start at t


class NoisyRow(NamedTuple):
    """A step ``x_s = a x_t + b x0 + c eps + d z`` with z ~ N(0, I), and the time it starts at."""

    t: Scalar
    a: Scalar
    b: Scalar
    c: Scalar
    d: Scalar | None  # None: no noise is drawn


def linear_sampler(
    prepare: Callable[[SDE, Times], NoisyRow],
    require: Callable[[SDE, Time], None] = lambda sde, t: None,
) -> Sampler:
    """A memoryless method of one evaluation: each step is a row of four coefficients.

    Args:
        prepare: (sde, ts) -> ``NoisyRow`` of [n] arrays.
        require: raises ValueError where the method cannot start at t.

    Returns:
        The sampler.
    """

    def step(denoiser, key, x, row):
        x0, eps = denoiser(x, row.t)
        return row.a * x + row.b * x0 + row.c * eps + fresh_noise(key, x, row.d)

    return Sampler(prepare, lambda x: x, step, lambda x: x, require=require)


def fresh_noise(key: Key, x: Data, scale: Scalar | None) -> Data | float:
    """``scale z`` with z ~ N(0, I) of the shape of x; 0, and nothing drawn, where scale is None.

    Args:
        key: key of the draw.
        x: an array of the shape and dtype that are wanted, [*event].
        scale: standard deviation [], or None.

    Returns:
        The noise [*event], or 0.
    """
    return 0.0 if scale is None else scale * jax.random.normal(key, x.shape, x.dtype)


def both_ends(sde: SDE, ts: Times) -> tuple[Coefficients, Coefficients]:
    """Coefficients at the start t and at the end s of every step of a grid.

    Args:
        sde: the process.
        ts: [n + 1] times.

    Returns:
        Two ``Coefficients`` of [n] arrays.
    """
    c = jax.vmap(lambda t: coefficients(sde, t))(ts)
    return jax.tree.map(lambda k: k[:-1], c), jax.tree.map(lambda k: k[1:], c)


def in_float64(function: Callable[..., Any], dtype: Any, *args: Any) -> Any:
    """``function(*args)`` computed in float64 and rounded to ``dtype``; works inside ``jit``.

    Args:
        function: a function of pytrees of arrays.
        dtype: the floating dtype of the result.
        *args: its arguments.

    Returns:
        The result, a pytree of arrays.
    """

    def cast(tree, to):
        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, to), tree)

    with jax.enable_x64(True):
        return cast(function(*cast(args, jnp.float64)), dtype)


def require_steps(steps: int | None) -> None:
    """Refuses a grid without steps; None stands for adaptive steps.

    Args:
        steps: number of steps, or None.

    Raises:
        ValueError: for less than one step.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps: got {steps}; expected at least 1")


def sample(
    key: Key,
    sampler: Sampler,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    ts: Times,
    *,
    save_at: Float[Array, " m"] | None = None,
    denoise: bool = True,
) -> tuple[Data, Stats]:
    """Runs a sampler over a grid, for one example.

    Args:
        key: the example's key; step i draws from ``fold_in(key, i)``.
        sampler: the method.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state at ``ts[0]``, [*event].
        ts: [n + 1] decreasing times.
        save_at: times at which to keep the state; the state kept is that of the last grid time
            not below the asked one. Memory grows with their number, not with n.
        denoise: end with x0 as estimated at ``ts[-1]``, one more evaluation.

    Returns:
        x [*event] and ``Stats``; ``stats.saved`` is [m, *event] where save_at was given.

    Raises:
        ValueError: for times that are not decreasing; traced ones are let through.
    """
    grids.require_decreasing(ts)
    rows = in_float64(sampler.prepare, x.dtype, sde, ts)
    ts = jnp.asarray(ts, x.dtype)
    steps = ts.shape[0] - 1
    saved = None if save_at is None else jnp.broadcast_to(x, (save_at.shape[0], *x.shape))

    def advance(carry, inputs):
        state, saved = carry
        index, row, s = inputs
        state = sampler.step(denoiser, jax.random.fold_in(key, index), state, row)
        if saved is not None:
            reached = (save_at <= s).reshape(-1, *(1,) * x.ndim)
            saved = jnp.where(reached, sampler.final(state)[None], saved)
        return (state, saved), None

    (state, saved), _ = jax.lax.scan(
        advance, (sampler.init(x), saved), (jnp.arange(steps), rows, ts[1:])
    )
    last = sampler.final(state)
    out = denoiser(last, ts[-1]).x0 if denoise else last
    nfe = jnp.asarray(sampler.evaluations * steps + denoise, jnp.int32)
    return out, Stats(nfe, jnp.maximum(finite(last), finite(out)), saved)


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
    require_steps(steps)

    def run(key, sde, denoiser, x):
        ts = in_float64(lambda s: grid(s, steps), x.dtype, sde)
        return sample(key, sampler, sde, denoiser, x, ts, save_at=save_at, denoise=denoise)

    def require(sde, t):
        sampler.require(sde, t)
        grids.require_decreasing(grid(sde, steps))

    return Method(run, require)


def finite(x: Data) -> Int[Array, ""]:
    """The result code of a sample: ``NOT_FINITE`` where any of it is inf or NaN.

    Args:
        x: a sample [*event].

    Returns:
        The code [].
    """
    return jnp.where(jnp.all(jnp.isfinite(x)), SUCCESS, NOT_FINITE).astype(jnp.int32)


def check(stats: Reported) -> None:
    """Raises on the host where any example of a solve did not succeed.

    Args:
        stats: the report of one example or of a batch: ``Stats`` or a ``Likelihood``.

    Raises:
        FloatingPointError: how many examples failed and in which way, the first ten of each by
            their place in the batch, and what to do.
    """
    result = np.ravel(np.asarray(stats.result))
    failures = []
    for code, message in MESSAGES.items():
        failed = np.flatnonzero(result == code)
        if failed.size:
            listed = ", ".join(map(str, failed[:10])) + ", ..." * (failed.size > 10)
            which = f"example{'s' * (failed.size > 1)} {listed}"
            failures.append(f"{failed.size} of {result.size} examples {message} ({which})")
    if failures:
        raise FloatingPointError("; ".join(failures))
