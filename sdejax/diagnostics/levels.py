"""Numbers of examples at several noise levels, and their means.

Every diagnostic is a few numbers for one example x_t = alpha x_0 + sigma eps at one time. Here they
are had for all examples at all times, so many at once, and become means with standard errors. The
noise of example i at level j comes from ``fold_in(fold_in(key, j), i)``: it is the same for any
chunk, and errors of different levels are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.prediction import Estimate
from sdejax.sde import SDE, log_snr, perturb
from sdejax.types import Cond, Data, Key, Scalar

Levels = Float[Array, " m"]  # one number for each of m times
Numbers = Float[Array, "m n"]  # of n examples at m times
ConditionalDenoiser = Callable[..., Estimate]  # (x, t), or (x, t, cond) where conditions are given
Single = Callable[[Key, Callable[[Data, Scalar], Any], Data, Data, Scalar], Any]


class Mean(NamedTuple):
    """Means at m times, with their standard errors."""

    value: Levels
    error: Levels


def times(sde: SDE, m: int, lowest: float = -9.0) -> Levels:
    """Levels from t_min up, evenly in log-SNR.

    Args:
        sde: the process.
        m: how many, at least 1.
        lowest: log-SNR to stop at, where that of t_max is lower or minus infinity.

    Returns:
        Increasing times [m].

    Raises:
        ValueError: for m below 1.
    """
    if m < 1:
        raise ValueError(f"times: got m={m}; expected at least 1")
    low = jnp.maximum(log_snr(sde, sde.t_max), lowest)
    return jax.vmap(sde.time_of_log_snr)(jnp.linspace(log_snr(sde, sde.t_min), low, m))


def log_snrs(sde: SDE, ts: Levels) -> Levels:
    """The log-SNR at each time, in nats.

    Args:
        sde: the process.
        ts: times [m].

    Returns:
        [m].
    """
    return jax.vmap(lambda t: log_snr(sde, t))(ts)


def over_levels(
    key: Key,
    single: Single,
    fn: Callable[..., Any],
    sde: SDE,
    x0: Float[Array, "n *event"],
    ts: Levels,
    cond: Cond = None,
    chunk: int = 256,
) -> Any:
    """``single`` for every example at every time.

    Args:
        key: key of the noise and of probes.
        single: (key, at, x_t, eps, t) -> a tuple of scalars, for one example.
        fn: the denoiser, or another function that ``single`` calls as ``at(x, t)``; it is called
            as (x, t, cond) where ``cond`` is given.
        sde: the process.
        x0: data [n, *event], n >= 2.
        ts: times [m].
        cond: conditions, with leaves [n, ...], or None.
        chunk: examples to hold in memory at once.

    Returns:
        What ``single`` gives, with leaves [m, n].

    Raises:
        ValueError: for fewer than two examples, no times, or a chunk below 1.
    """
    n, m = x0.shape[0], ts.shape[0]
    if n < 2 or m < 1:
        raise ValueError(f"x0, ts: got {n} examples at {m} times; expected at least 2 at 1")
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}; expected at least 1")
    ts = ts.astype(x0.dtype)

    def one(k):
        level, i = k // n, k % n
        noise_key, own_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, level), i))
        eps = jax.random.normal(noise_key, x0.shape[1:], x0.dtype)
        given = () if cond is None else (jax.tree.map(lambda leaf: leaf[i], cond),)
        x = perturb(sde, x0[i], eps, ts[level])
        return single(own_key, lambda x, t: fn(x, t, *given), x, eps, ts[level])

    chunk = min(chunk, m * n)
    # The last chunk is filled up, since another size would be compiled a second time.
    index = jnp.minimum(jnp.arange(-(-m * n // chunk) * chunk), m * n - 1)
    found = jax.lax.map(one, index, batch_size=chunk)
    return jax.tree.map(lambda leaf: leaf[: m * n].reshape(m, n), found)


def mean(values: Numbers) -> Mean:
    """Means over examples.

    Args:
        values: independent numbers [m, n].

    Returns:
        Means and standard errors [m].
    """
    return Mean(jnp.mean(values, axis=1), _standard_error(values))


def ratio(above: Numbers, below: Numbers) -> Mean:
    """The ratios of two means over the same examples, by linearisation.

    Args:
        above: numerators [m, n].
        below: denominators [m, n], of positive mean.

    Returns:
        Ratios and standard errors [m].

    Reference: Cochran 1977, Sampling Techniques, section 2.11 (ratio estimator).
    """
    size = jnp.mean(below, axis=1)
    value = jnp.mean(above, axis=1) / size
    return Mean(value, _standard_error(above - value[:, None] * below) / size)


def root(square: Mean) -> Mean:
    """The square root of a mean, by linearisation; that of a negative estimate is 0.

    Args:
        square: a mean that is at least 0 but for chance.

    Returns:
        Roots and standard errors [m].
    """
    positive = square.value > 0
    value = jnp.sqrt(jnp.where(positive, square.value, 1.0))
    # Around 0 the root is not linear: what it could be is the root of the error.
    chance = jnp.sqrt(jnp.where(square.error > 0, square.error, 1.0))
    error = jnp.where(
        square.error > 0, jnp.where(positive, 0.5 * square.error / value, chance), 0.0
    )
    return Mean(jnp.where(positive, value, 0.0), error)


def _standard_error(values: Numbers) -> Levels:
    return jnp.std(values, axis=1, ddof=1) / math.sqrt(values.shape[1])
