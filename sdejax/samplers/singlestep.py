"""Exponential Runge-Kutta methods: several evaluations inside a step, none remembered.

Stage i of a step starts from x_t and goes, by the exact linear part, to its own time,

    x^(i) = a_i x_t + sum_{j<i} b_ij m_j + sum_{j<=i} d_ij z_j,    m_j = m(x^(j), t_j),

and the last "stage" is x_s. DPM-Solver's singlestep methods and their stochastic relatives SEEDS
differ in the table alone: with h the step in lambda = log(alpha/sigma) and weight w on eps,

    x(lambda + r h) = (alpha'/alpha) x - w sigma' (e^{r h} - 1) eps + sigma' sqrt(e^{2 r h} - 1) z,

w = 1 without noise is the probability-flow ODE and w = 2 with noise the reverse SDE. The noise of
the stages is that of one Brownian path: in y = x/alpha it has independent increments of variance
r_t^2 - r_s^2, r = sigma/alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.samplers.base import Sampler
from sdejax.samplers.exponential import DATA, LOG_RATIO, NOISE, Form
from sdejax.samplers.levels import require_level
from sdejax.sde import SDE, Coefficients, coefficients
from sdejax.types import Data, Time, Times


class StageRow(NamedTuple):
    """One step of S stages."""

    t: Float[Array, " S"]  # where each stage evaluates
    a: Float[Array, " S"]  # of x_t in what comes after each evaluation
    b: Float[Array, "S S"]  # of m_j
    d: Float[Array, "S S"] | None  # of z_j; None: no noise is drawn


def singlestep(
    prepare: Callable[[SDE, Times], StageRow],
    form: Form,
    stages: int,
    require: Callable[[SDE, Time], None] = lambda sde, t: None,
) -> Sampler:
    """An exponential Runge-Kutta method from its table.

    Args:
        prepare: (sde, ts) -> ``StageRow`` with a leading axis [n].
        form: the half of the estimate that b weights.
        stages: evaluations a step.
        require: raises ValueError where the method cannot start at t.

    Returns:
        The sampler.
    """

    def step(denoiser, key, x, row):
        z = None
        if row.d is not None:
            keys = [jax.random.fold_in(key, i) for i in range(stages)]
            z = [jax.random.normal(one, x.shape, x.dtype) for one in keys]
        return advance(lambda x, t: form.pick(denoiser(x, t)), x, row, z)

    return Sampler(prepare, lambda x: x, step, lambda x: x, stages, require)


def advance(m: Callable[[Data, Time], Data], x: Data, row: StageRow, z: list[Data] | None) -> Data:
    """One step with given noise.

    Args:
        m: the half of the estimate that b weights, (x, t) -> [*event].
        x: the state at the start [*event].
        row: the table of the step.
        z: what d weights, one [*event] for each stage; None where d is None.

    Returns:
        The state at the end [*event].
    """
    found, y = [], x
    for i in range(row.t.shape[0]):
        found.append(m(y, row.t[i]))
        y = row.a[i] * x + sum(row.b[i, j] * value for j, value in enumerate(found))
        if row.d is not None and z is not None:
            y = y + sum(row.d[i, j] * z[j] for j in range(i + 1))
    return y


def dpm_solver(order: int = 3) -> Sampler:
    """DPM-Solver of 2 or 3 evaluations a step: the exponential Runge-Kutta method through eps.

    Stages at r = 1/2, or 1/3 and 2/3, of the step in lambda. A step to sigma = 0 is of order 1.

    Args:
        order: 2 (DPM-Solver-2) or 3 (DPM-Solver-3).

    Returns:
        The sampler, of ``order`` evaluations a step.

    Raises:
        ValueError: for another order.

    Reference: Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2.
    """
    return _method("dpm_solver", NOISE, order, (2, 3), stochastic=False)


def dpmpp_singlestep(order: int = 2) -> Sampler:
    """DPM-Solver++(2S) and (3S): the exponential Runge-Kutta method through x0.

    Args:
        order: 2 or 3.

    Returns:
        The sampler, of ``order`` evaluations a step; a step to sigma = 0 is of order 1.

    Raises:
        ValueError: for another order.

    Reference: Lu et al. 2022, arXiv:2211.01095, algorithm 1.
    """
    return _method("dpmpp_singlestep", DATA, order, (2, 3), stochastic=False)


def seeds(stages: int = 2) -> Sampler:
    """SEEDS-1, -2 and -3: the reverse SDE with the stages of DPM-Solver.

    The drift is that of DPM-Solver with twice the weight on eps, the noise is exact and shared by
    the stages of a step. Of weak order 1, with a smaller error the more stages.

    Args:
        stages: 1, 2 or 3 evaluations a step.

    Returns:
        The sampler; a step to sigma = 0 is of one stage.

    Raises:
        ValueError: for another number of stages.

    Reference: Gonzalez et al. 2023, arXiv:2305.14267.
    """
    return _method("seeds", NOISE, stages, (1, 2, 3), stochastic=True)


FRACTIONS = {1: (1.0,), 2: (1 / 2, 1.0), 3: (1 / 3, 2 / 3, 1.0)}


def _method(
    name: str, form: Form, stages: int, offered: tuple[int, ...], stochastic: bool
) -> Sampler:
    if stages not in offered:
        raise ValueError(f"{name}: got {stages}; expected one of {list(offered)}")

    def prepare(sde: SDE, ts: Times) -> StageRow:
        return jax.vmap(lambda t, s: _row(form, sde, t, s, stages, stochastic))(ts[:-1], ts[1:])

    def require(sde: SDE, t: Time) -> None:
        if form is NOISE:
            require_level(name, sde, t)

    return singlestep(prepare, form, stages, require)


def _row(form: Form, sde: SDE, t: Array, s: Array, stages: int, stochastic: bool) -> StageRow:
    """The table of one step; where log-SNR is infinite at an end, one of order 1 in m_0."""
    fractions = FRACTIONS[stages]
    weight = 2.0 if stochastic else 1.0
    low, high = (2.0 * LOG_RATIO.value(DATA, sde, time) for time in (t, s))
    whole = jnp.isfinite(low) & jnp.isfinite(high) & (high > low)
    low, gap = jnp.where(whole, low, 0.0), jnp.where(whole, high - low, 1.0)
    inner = [jnp.where(whole, sde.time_of_log_snr(low + r * gap), t) for r in fractions[:-1]]
    start, end = coefficients(sde, t), coefficients(sde, s)
    targets = [*(coefficients(sde, time) for time in inner), end]

    a = [form.scale(c) / form.scale(start) for c in targets]
    first = [form.partner(c) - k * form.partner(start) for c, k in zip(targets, a, strict=True)]
    b = [[k, *[jnp.zeros_like(k)] * (stages - 1)] for k in first]
    if stages == 2:
        b[1] = [(1.0 - 0.5 / fractions[0]) * first[1], 0.5 / fractions[0] * first[1]]
    if stages == 3:
        # Delta u of the form's variable log r: +lambda for data, -lambda for noise.
        u = [LOG_RATIO.value(form, sde, time) for time in (t, *inner, s)]
        grown = [jnp.where(whole, k - u[0], 1.0) for k in u[1:]]
        linear = [form.partner(c) - e / g for c, e, g in zip(targets, first, grown, strict=True)]
        slope = fractions[1] / fractions[0] * linear[1]
        b[1] = [first[1] - slope, slope, jnp.zeros_like(slope)]
        slope = linear[2] / fractions[1]
        b[2] = [first[2] - slope, jnp.zeros_like(slope), slope]
    alone = jnp.zeros((stages, stages)).at[-1, 0].set(first[-1])
    still = jnp.ones(stages).at[-1].set(a[-1])
    d = _noise(start, targets, whole) if stochastic else None
    return StageRow(
        jnp.stack([jnp.asarray(t), *inner]),
        jnp.where(whole, jnp.stack(a), still),
        jnp.where(whole, weight * jnp.array(b), alone),
        d,
    )


def _noise(start: Coefficients, targets: list[Coefficients], whole: Array) -> Array:
    """alpha_i sqrt(r_{j-1}^2 - r_j^2), j <= i: one Brownian path of y = x/alpha for all stages."""
    r2 = jnp.stack([(c.sigma / c.alpha) ** 2 for c in [start, *targets]])
    steps = jnp.sqrt(jnp.where(whole, r2[:-1] - r2[1:], 1.0))
    noise = jnp.tril(jnp.stack([c.alpha for c in targets])[:, None] * steps[None, :])
    return jnp.where(whole, noise, 0.0)
