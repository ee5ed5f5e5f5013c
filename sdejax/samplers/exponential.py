"""Exponential integrators: the linear part of the probability-flow ODE solved exactly.

In the form of either half of the estimate the ODE has no linear part left,

    noise:  y = x/alpha,  r = sigma/alpha,  dy/dr = eps,
    data:   y = x/sigma,  r = alpha/sigma,  dy/dr = x0,

and a step is x_s = (scale_s/scale_t) x_t + scale_s int_{r_t}^{r_s} m dr. An Adams method puts a
polynomial through the known values of m. In r it is the classical method; in log r, where the
log-SNR is, it is what DEIS, DPM-Solver and UniPC use; in t it is tAB-DEIS. The weights
scale_s int l_j(u(r)) dr of the Lagrange polynomials l_j are taken by Gauss-Legendre quadrature:
exact in r, and to rounding in log r and t, without the cancellation of the closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sdejax.samplers.base import both_ends
from sdejax.samplers.multistep import Pick
from sdejax.sde import SDE, Coefficients, coefficients
from sdejax.types import Scalar, Time, Times

NODES, WEIGHTS = (
    0.5 * (k + shift) for k, shift in zip(np.polynomial.legendre.leggauss(24), (1, 0), strict=True)
)


class Form(NamedTuple):
    """The half of the estimate that is integrated: dy/dr = pick, y = x/scale, r = partner/scale."""

    pick: Pick
    scale: Callable[[Coefficients], Array]
    partner: Callable[[Coefficients], Array]


NOISE = Form(lambda e: e.eps, lambda c: c.alpha, lambda c: c.sigma)
DATA = Form(lambda e: e.x0, lambda c: c.sigma, lambda c: c.alpha)


class Variable(NamedTuple):
    """What the polynomial is a polynomial of: u, and how fast r changes with it."""

    value: Callable[[Form, SDE, Time], Scalar]  # u(t)
    rate: Callable[[Form, SDE, Scalar], Scalar]  # dr/du


def _ratio(form: Form, sde: SDE, t: Time) -> Scalar:
    c = coefficients(sde, t)
    return form.partner(c) / form.scale(c)


def _log_ratio(form: Form, sde: SDE, t: Time) -> Scalar:
    """log r, infinite at either end, where its derivative is 0 so that none becomes NaN."""
    c = coefficients(sde, t)
    over, under = form.partner(c), form.scale(c)
    inside = (over > 0) & (under > 0)
    level = jnp.log(jnp.where(inside, over, 1.0)) - jnp.log(jnp.where(inside, under, 1.0))
    return jnp.where(inside, level, jnp.where(over > 0, jnp.inf, -jnp.inf))


RATIO = Variable(_ratio, lambda form, sde, u: jnp.ones_like(u))
LOG_RATIO = Variable(_log_ratio, lambda form, sde, u: jnp.exp(u))
TIME = Variable(
    lambda form, sde, t: jnp.asarray(t),
    lambda form, sde, u: jax.jvp(lambda t: _ratio(form, sde, t), (u,), (jnp.ones_like(u),))[1],
)


def first_order(form: Form, sde: SDE, ts: Times) -> tuple[Array, Array]:
    """The exponential Euler steps ``x_s = a x_t + b m``: DDIM, whichever the form.

    Args:
        form: ``NOISE`` or ``DATA``.
        sde: the process.
        ts: [n + 1] decreasing times.

    Returns:
        a and b, [n] each; finite at sigma_s = 0.
    """
    t, s = both_ends(sde, ts)
    a = form.scale(s) / form.scale(t)
    return a, form.partner(s) - a * form.partner(t)


def adams(
    form: Form,
    variable: Variable,
    sde: SDE,
    ts: Times,
    order: int,
    orders: Int[Array, " steps"],
    *,
    implicit: bool = False,
) -> Float[Array, "steps k"]:
    """Weights of m in an Adams method on any grid.

    Explicit: through m_i, m_{i-1}, ... (Adams-Bashforth); implicit: through m_{i+1} as well
    (Adams-Moulton), which comes first. A step at an end where u is infinite (log r at sigma = 0
    or alpha = 0) is of order 1, and so is a node there left out of later steps.

    Args:
        form: ``NOISE`` or ``DATA``.
        variable: ``RATIO``, ``LOG_RATIO`` or ``TIME``.
        sde: the process.
        ts: [n + 1] decreasing times.
        order: most evaluations to interpolate, without the implicit one.
        orders: [n] how many of them each step uses.
        implicit: whether m at the end of the step is one of the nodes.

    Returns:
        [n, order] weights, or [n, order + 1] with the implicit one first.
    """
    u = jax.vmap(lambda t: variable.value(form, sde, t))(ts)
    back = jnp.arange(-1 if implicit else 0, order)
    _, s = both_ends(sde, ts)

    def step(index, start, end, first, scale, order):
        whole = jnp.isfinite(start) & jnp.isfinite(end)
        nodes = u[jnp.maximum(index - back, 0)]
        usable = (back < order) & jnp.isfinite(nodes) & whole
        start = jnp.where(whole, start, 1.0)
        length = jnp.where(whole, end - start, 0.0)
        points = start + length * jnp.asarray(NODES, u.dtype)
        rate = jax.vmap(lambda p: variable.rate(form, sde, p))(points)
        mass = scale * length * jnp.asarray(WEIGHTS, u.dtype) * rate
        weights = mass @ _lagrange(points, jnp.where(usable, nodes, 0.0), usable)
        return jnp.where(whole, weights, jnp.where(back == 0, first, 0.0))

    _, first = first_order(form, sde, ts)
    steps = jnp.arange(ts.shape[0] - 1)
    return jax.vmap(step)(steps, u[:-1], u[1:], first, form.scale(s), orders)


def _lagrange(
    points: Float[Array, " q"], nodes: Float[Array, " k"], usable: Bool[Array, " k"]
) -> Float[Array, "q k"]:
    """The Lagrange polynomials of the usable nodes at the points; 0 for the others."""
    gap = nodes[:, None] - nodes[None, :]
    other = usable[None, :] & ~jnp.eye(nodes.shape[0], dtype=bool)
    apart = other & (gap != 0)  # steps of length zero have no polynomial, and weight zero
    gap = jnp.where(apart, gap, 1.0)

    def at(point):
        factors = jnp.where(apart, (point - nodes)[None, :] / gap, 1.0)
        return jnp.where(usable, jnp.prod(factors, axis=1), 0.0)

    return jax.vmap(at)(points)
