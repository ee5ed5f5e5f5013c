"""UniPC: a predictor and a corrector through the same evaluations, one evaluation a step.

At t_i the network is evaluated at the predicted x_i; that value corrects x_i (UniC, an implicit
Adams formula over the step just done) and predicts x_{i+1} (UniP, an explicit one):

    x^c_i     = p_i x^c_{i-1} + sum_j q_ij m_{i-j}        j = 0 .. order,
    x_{i+1}   = a_i x^c_i     + sum_j b_ij m_{i-j}        j = 0 .. order - 1,

with m = x0 and polynomials in log-SNR. Solving the paper's linear systems gives these Adams
weights whatever B(h) is; B(h) shows only where a system has one unknown that the paper sets to
1/2: the predictor of order 2 and the corrector of order 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.samplers.base import Sampler
from sdejax.samplers.exponential import DATA, LOG_RATIO, adams, first_order
from sdejax.samplers.multistep import combine, require_order, rising_orders
from sdejax.sde import SDE
from sdejax.types import Data, Scalar, Times

# B(h) over alpha_s: h, or e^h - 1 in the data form.
VARIANTS: Mapping[str, Callable[[Array], Array]] = {
    "bh1": lambda h: h,
    "bh2": lambda h: -jnp.expm1(-h),
}


class UniPCRow(NamedTuple):
    """One step: where it evaluates, the correction of x_t and the prediction of x_s."""

    t: Scalar
    kept: Scalar  # of the predicted x_t: 1 at the first step, where nothing is corrected
    p: Scalar
    q: Float[Array, " k+1"]
    a: Scalar
    b: Float[Array, " k"]


class Corrected(NamedTuple):
    """The predicted state, the corrected one before it, and the evaluations, the newest first."""

    x: Data
    base: Data
    past: tuple[Data, ...]


def unipc(order: int = 3, variant: str = "bh2", lower_final: bool = False) -> Sampler:
    """UniPC of order 1 to 4: predictor UniP-p with corrector UniC-p, of order p + 1 together.

    The first steps are of order 1, 2, ...; the step to sigma = 0 is of order 1.

    Args:
        order: of the predictor, 1 to 4.
        variant: "bh1" (B = h) or "bh2" (B = e^h - 1).
        lower_final: lower the order of the last steps to 3, 2 before the denoising step, as the
            authors' code does; it helps below about 15 steps and costs the order beyond.

    Returns:
        The sampler.

    Raises:
        ValueError: for another order or variant.

    Reference: Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2.
    """
    require_order("unipc", order, 4)
    if variant not in VARIANTS:
        raise ValueError(f"unipc: got variant={variant!r}; expected one of {list(VARIANTS)}")
    scale = VARIANTS[variant]

    def prepare(sde: SDE, ts: Times) -> UniPCRow:
        n = ts.shape[0] - 1
        orders = rising_orders(n, order)
        if lower_final:
            orders = jnp.minimum(orders, n + 1 - jnp.arange(n))
        a, b = first_order(DATA, sde, ts)
        explicit = adams(DATA, LOG_RATIO, sde, ts, order, orders)
        implicit = adams(DATA, LOG_RATIO, sde, ts, order, orders, implicit=True)
        level = jax.vmap(lambda t: LOG_RATIO.value(DATA, sde, t))(ts)
        h = level[1:] - level[:-1]
        finite = jnp.isfinite(h)
        half = 0.5 * jax.vmap(sde.alpha)(ts[1:]) * scale(jnp.where(finite, h, 0.0))
        if order > 1:
            before = jnp.concatenate([jnp.ones(1, h.dtype), h[:-1]])
            known = finite & jnp.isfinite(before) & (before > 0)
            slope = half * jnp.where(known, h, 0.0) / jnp.where(known, before, 1.0)
            second = jnp.zeros_like(explicit).at[:, 0].set(b + slope).at[:, 1].set(-slope)
            explicit = jnp.where((orders == 2)[:, None], second, explicit)
        first = jnp.zeros_like(implicit).at[:, 0].set(half).at[:, 1].set(b - half)
        implicit = jnp.where((orders == 1)[:, None], first, implicit)
        start = jnp.arange(n) == 0
        return UniPCRow(
            ts[:-1],
            start.astype(ts.dtype),
            jnp.where(start, 0.0, jnp.roll(a, 1)),
            jnp.where(start[:, None], 0.0, jnp.roll(implicit, 1, axis=0)),
            a,
            explicit,
        )

    def init(x):
        return Corrected(x, x, (jnp.zeros_like(x),) * order)

    def step(denoiser, key, state, row):
        seen = (denoiser(state.x, row.t).x0, *state.past)
        base = row.kept * state.x + row.p * state.base + combine(row.q, seen)
        x = row.a * base + combine(row.b, seen[:-1])
        return Corrected(x, base, seen[:-1])

    return Sampler(prepare, init, step, lambda state: state.x)
