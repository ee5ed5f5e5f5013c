"""The trace of a Jacobian, exactly or by random probes, in forward mode.

``jax.linearize`` runs the function once and leaves the linear map v -> J v, so K directions cost
one evaluation and K cheap tangents. Every estimate here is a mean of m numbers:

| method | numbers | variance of their mean |
|---|---|---|
| exact | sum_i e_i . J e_i, m = 1 | 0 |
| Rademacher | v . J v, entries of v +-1 | 2 (|S|^2 - sum S_ii^2)/K |
| Gaussian | v . J v, entries of v normal | 2 |S|^2/K |
| orthogonal | d u . J u, u of a random frame | (1 - (K - 1)/(d - 1)) of one/K |
| Hutch++ | tr Q^T J Q + n w . J w, w uniform off Q | 2n/(n + 2) (|R|^2 - (tr R)^2/n) 3/K |

with S = (J + J^T)/2, Q spanning J on a third of the probes, w of unit length, and R what S does on
the n = d - K/3 dimensions off Q; c I has no variance. Probes are drawn once per solve: one drawn at
every evaluation makes the field a random one, which adaptive steps chase.

Reference: Hutchinson 1990; Grathwohl et al. 2018, arXiv:1810.01367, section 3.1 (one probe for a
whole solve); Meyer et al. 2020, arXiv:2010.09649, algorithm 1 (Hutch++); Epperly, Tropp and Webber
2023, arXiv:2301.07825 (probes of one length off the range).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.types import Data, Key, Scalar

LinearMap = Callable[[Data], Data]  # v -> J v
Probes = Any  # a pytree of arrays
Estimates = Float[Array, " m"]


class Divergence(NamedTuple):
    """How traces are had: probes, the numbers they give, and what the spread of these says."""

    draw: Callable[[Key, Data], Probes]  # once per solve, for an event like the given one
    traces: Callable[[LinearMap, Probes, Data], Estimates]  # m numbers, whose mean estimates tr J
    error: Callable[[Estimates, int], Scalar]  # standard error of their mean, for d entries


def exact(chunk: int | None = None) -> Divergence:
    """``sum_i e_i . J e_i``: d tangents, for events of few entries.

    Args:
        chunk: directions to hold in memory at once, by default all d.

    Returns:
        The method, whose error is 0.

    Raises:
        ValueError: for a chunk below 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"exact: got chunk={chunk}; expected at least 1")

    def traces(jvp: LinearMap, probes: Probes, x: Data) -> Estimates:
        def entry(i):
            basis = jnp.zeros((x.size,), x.dtype).at[i].set(1.0).reshape(x.shape)
            return jvp(basis).ravel()[i]

        index = jnp.arange(x.size)
        entries = jax.vmap(entry)(index) if chunk is None else _mapped(entry, index, chunk)
        return jnp.sum(entries)[None]

    return Divergence(lambda key, x: (), traces, lambda values, size: jnp.zeros_like(values[0]))


def _mapped(function: Callable[[Array], Array], index: Array, chunk: int) -> Array:
    return jax.lax.map(function, index, batch_size=chunk)


def rademacher(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """Independent entries of +-1: of unit covariance, and of the least variance for a trace."""
    return jax.random.rademacher(key, shape, dtype)


def gaussian(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """Independent standard normal entries."""
    return jax.random.normal(key, shape, dtype)


KINDS = {"rademacher": rademacher, "gaussian": gaussian}


def hutchinson(probes: int = 1, kind: str = "rademacher") -> Divergence:
    """``v . J v`` for K independent probes with unit covariance.

    Args:
        probes: K.
        kind: "rademacher" or "gaussian".

    Returns:
        The method; the standard error is known from K = 2 on, NaN for one probe.

    Raises:
        ValueError: for less than one probe or an unknown kind.

    Reference: Hutchinson 1990; Skilling 1989.
    """
    _require_probes("hutchinson", probes, 1)
    if kind not in KINDS:
        raise ValueError(f"hutchinson: got kind={kind!r}; expected one of {list(KINDS)}")

    def draw(key: Key, x: Data) -> Probes:
        return KINDS[kind](key, (probes, *x.shape), x.dtype)

    return Divergence(draw, _quadratic, _independent)


def orthogonal(probes: int) -> Divergence:
    """``d u . J u`` for K directions of a random orthonormal frame: sampling without replacement.

    The numbers of a full frame add up to d tr J, so the variance of a mean of K falls by the
    finite-population factor 1 - (K - 1)/(d - 1), and is 0 at K = d. The reported error knows that.

    Args:
        probes: K.

    Returns:
        The method; the standard error is known from K = 2 on, NaN for one probe.

    Raises:
        ValueError: for less than one probe; and when it draws, for more probes than entries.

    Reference: Yu et al. 2016, arXiv:1610.09072 (orthogonal random features);
    Cochran 1977, Sampling Techniques, theorem 2.2 (finite-population correction).
    """
    _require_probes("orthogonal", probes, 1)

    def draw(key: Key, x: Data) -> Probes:
        if probes > x.size:
            raise ValueError(
                f"orthogonal: got {probes} probes for {x.size} entries; expected at most as many; "
                "use exact"
            )
        # QR of normal columns, signs fixed by R's diagonal, is uniform on frames.
        basis, upper = jnp.linalg.qr(jax.random.normal(key, (x.size, probes), x.dtype))
        frame = basis * jnp.sign(jnp.diagonal(upper))[None]
        return math.sqrt(x.size) * frame.T.reshape(probes, *x.shape)

    def error(values: Estimates, size: int) -> Scalar:
        return math.sqrt(1.0 - values.shape[0] / size) * _independent(values, size)

    return Divergence(draw, _quadratic, error)


def hutchpp(probes: int) -> Divergence:
    """Hutch++: the trace on the range of J S exactly, that on its complement by Hutchinson.

    A third of the directions S are spent on the range Q, a third on tr Q^T J Q and a third on what
    is left, whose probes have one length, so that a multiple of the identity costs nothing. It pays
    where J, but for such a multiple, has few large eigenvalues.

    Args:
        probes: K >= 3, tangents an evaluation; rounded down to a multiple of 3.

    Returns:
        The method; its error is that of the last third, known from K = 6 on.

    Raises:
        ValueError: for less than three probes; and when it draws, for thirds of more than d.

    Reference: Meyer, Musco, Musco and Woodruff 2020, arXiv:2010.09649, algorithm 1; Epperly, Tropp
    and Webber 2023, arXiv:2301.07825.
    """
    _require_probes("hutchpp", probes, 3)
    third = probes // 3

    def draw(key: Key, x: Data) -> Probes:
        if third > x.size:
            raise ValueError(
                f"hutchpp: got {probes} probes for {x.size} entries; expected at most "
                f"{3 * x.size}; use exact"
            )
        # Normal directions are never parallel, as two of few signs may be, and uniform off a range.
        return gaussian(key, (2, third, x.size), x.dtype)

    def traces(jvp: LinearMap, probes: Probes, x: Data) -> Estimates:
        def rows(directions):
            return jax.vmap(lambda v: jvp(v.reshape(x.shape)).ravel())(directions)

        basis = jnp.linalg.qr(rows(probes[0]).T)[0]  # [d, K/3]
        image = rows(basis.T)
        low = jnp.sum(basis.T * image)
        rest = probes[1] - (probes[1] @ basis) @ basis.T
        left = x.size - third
        scale = left / jnp.sum(rest**2, axis=1) if left else 0.0
        return low + scale * jnp.sum(rest * rows(rest), axis=1)

    return Divergence(draw, traces, _independent)


def value_and_trace(
    key: Key, fn: Callable[[Data], Data], x: Data, divergence: Divergence
) -> tuple[Data, Scalar]:
    """``fn(x)`` and the trace of its Jacobian there.

    Args:
        key: of the probes.
        fn: [*event] -> [*event].
        x: [*event].
        divergence: the method.

    Returns:
        The value [*event] and the trace [].
    """
    value, jvp = jax.linearize(fn, x)
    return value, jnp.mean(divergence.traces(jvp, divergence.draw(key, x), x))


def _quadratic(jvp: LinearMap, probes: Probes, x: Data) -> Estimates:
    """v . J v for each probe."""
    return jax.vmap(lambda v: jnp.sum(v * jvp(v)))(probes)


def _independent(values: Estimates, size: int) -> Scalar:
    """The standard error of the mean of independent numbers; NaN for one."""
    count = values.shape[0]
    if count < 2:
        return jnp.full_like(values[0], jnp.nan)
    return jnp.std(values, ddof=1) / math.sqrt(count)


def _require_probes(name: str, probes: int, least: int) -> None:
    if probes < least:
        raise ValueError(f"{name}: got probes={probes}; expected at least {least}")
