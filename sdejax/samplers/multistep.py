"""Linear multistep methods: one evaluation a step, and what the last few gave.

With m the half of the estimate that a method integrates (x0 or eps), a step from t_i to t_{i+1} is

    x_{i+1} = a_i x_i + sum_j b_ij m_{i-j} + d_i z,    z ~ N(0, I),

so a method is a table of coefficients. DPM-Solver++, SDE-DPM-Solver++, DEIS, Adams-Bashforth
and solvers that were learned differ in that table alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdejax.prediction import Estimate
from sdejax.samplers.base import Sampler, fresh_noise
from sdejax.sde import SDE
from sdejax.types import Data, Scalar, Time, Times

Pick = Callable[[Estimate], Data]


class HistoryRow(NamedTuple):
    """One step: where it evaluates, and what it adds up."""

    t: Scalar
    a: Scalar
    b: Float[Array, " k"]  # of the newest evaluation first
    d: Scalar | None  # None: no noise is drawn


class Memory(NamedTuple):
    """The state and the evaluations before it, the newest first."""

    x: Data
    past: tuple[Data, ...]


def multistep(
    prepare: Callable[[SDE, Times], HistoryRow],
    pick: Pick,
    order: int,
    require: Callable[[SDE, Time], None] = lambda sde, t: None,
) -> Sampler:
    """A linear multistep method from its table.

    Args:
        prepare: (sde, ts) -> ``HistoryRow`` of arrays [n] and, for b, [n, order].
        pick: the half of the estimate that b weights.
        order: the number of evaluations that a step combines.
        require: raises ValueError where the method cannot start at t.

    Returns:
        The sampler.
    """

    def init(x):
        return Memory(x, (jnp.zeros_like(x),) * (order - 1))

    def step(denoiser, key, state, row):
        seen = (pick(denoiser(state.x, row.t)), *state.past)
        x = row.a * state.x + combine(row.b, seen) + fresh_noise(key, state.x, row.d)
        return Memory(x, seen[: order - 1])

    return Sampler(prepare, init, step, lambda state: state.x, require=require)


def combine(weights: Float[Array, " k"], values: tuple[Data, ...]) -> Data:
    """``sum_j weights_j values_j``.

    Args:
        weights: [k].
        values: k arrays [*event].

    Returns:
        The sum [*event].
    """
    return sum((weights[j] * value for j, value in enumerate(values)), jnp.zeros_like(values[0]))


def rising_orders(n: int, order: int) -> Int[Array, " n"]:
    """The orders of the steps of a multistep method: 1, 2, ... while evaluations are gathered.

    Args:
        n: number of steps.
        order: the order when there are enough.

    Returns:
        [n] orders.
    """
    return jnp.minimum(jnp.arange(n) + 1, order)


def require_order(name: str, order: int, highest: int) -> None:
    """Refuses an order that a method does not have.

    Args:
        name: the method.
        order: the order asked for.
        highest: the highest there is.

    Raises:
        ValueError: unless 1 <= order <= highest.
    """
    if not 1 <= order <= highest:
        raise ValueError(f"{name}: got order={order}; expected 1 to {highest}")
