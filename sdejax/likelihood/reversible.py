"""Integration that can be run backwards to the bit of rounding: gradients in flat memory.

Two copies y, z of the state start at the same place and take turns. With the increment Psi_h(u, y)
of any explicit Runge-Kutta method and a coupling lam, a step from u to v = u + h is

    y' = lam y + (1 - lam) z + Psi_h(u, z),        z' = z - Psi_{-h}(v, y'),

of the order of the method itself, and it is undone in closed form,

    z = z' + Psi_{-h}(v, y'),        y = (y' - (1 - lam) z - Psi_h(u, z)) / lam.

So a gradient needs no state but the last: each step back gives the state before it and, from the
same two evaluations, the pull-back of cotangents. It is the gradient of the discrete scheme, equal
to backpropagation up to rounding, which grows as lam^-n on n steps; that of the continuous adjoint
(``diffrax.BacksolveAdjoint``), as flat, is off by the error of both solves. Price: two increments a
step forwards, and both with their derivatives backwards.

Reference: McCallum and Foster 2024, arXiv:2410.11648, definition 2.1 and theorem 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Field = Callable[..., Any]  # (u, state, *args) -> its rate


class Reversible(NamedTuple):
    """The reversible scheme around the solver of a ``Flow``, on a fixed grid.

    Attributes:
        coupling: lam in (0, 1], which pulls the copies together. Smaller values bear stiffer
            fields, and rounding grows by 1/lam a step going back.
    """

    coupling: float = 0.999


class Method(NamedTuple):
    """An explicit Runge-Kutta method of s stages, those alone that its solution uses."""

    nodes: Float[np.ndarray, " s"]
    rows: Float[np.ndarray, "s s"]  # strictly lower
    weights: Float[np.ndarray, " s"]


def method_of(solver: dfx.AbstractSolver) -> Method:
    """The coefficients of an explicit diffrax solver.

    Args:
        solver: Euler, or one with a Butcher tableau (Heun, Tsit5, Dopri8, ...).

    Returns:
        The method; a last stage that is the first of the next step is not among its stages.

    Raises:
        ValueError: for a solver that is no explicit Runge-Kutta method.
    """
    if isinstance(solver, dfx.Euler):
        return Method(np.zeros(1), np.zeros((1, 1)), np.ones(1))
    tableau = getattr(solver, "tableau", None)
    if not isinstance(tableau, dfx.ButcherTableau) or tableau.implicit:
        raise ValueError(
            f"solver: got {type(solver).__name__} with adjoint Reversible; expected an explicit "
            "Runge-Kutta method: Euler, Heun, Midpoint, Bosh3, Tsit5, Dopri5 or Dopri8"
        )
    weights = np.asarray(tableau.b_sol, float)
    stages = int(np.flatnonzero(weights)[-1]) + 1
    rows = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a_lower[: stages - 1]):
        rows[i + 1, : i + 1] = row
    nodes = np.concatenate([np.zeros(1), np.asarray(tableau.c, float)])
    return Method(nodes[:stages], rows, weights[:stages])


def calls(solver: dfx.AbstractSolver) -> int:
    """Evaluations of the field a step, twice the stages of the solver.

    Args:
        solver: as of ``method_of``.

    Returns:
        Their number.
    """
    return 2 * len(method_of(solver).weights)


def integrate(
    adjoint: Reversible,
    solver: dfx.AbstractSolver,
    field: Field,
    us: Float[Array, " n"],
    state: Any,
    args: tuple[Array, ...],
) -> Any:
    """The state at the end of a grid, differentiable in state, args and grid in flat memory.

    Args:
        adjoint: the coupling.
        solver: whose increments are taken.
        field: (u, state, *args) -> d state/du, a pytree like the state; may close over no tracer.
        us: [n] monotone values of the step variable.
        state: at ``us[0]``, a pytree of floating arrays.
        args: arrays of any dtype.

    Returns:
        The copy y of the state at ``us[-1]``.

    Raises:
        ValueError: for a coupling outside of (0, 1], or what is no explicit Runge-Kutta method.
    """
    lam, method = adjoint.coupling, method_of(solver)
    if not 0.0 < lam <= 1.0:
        raise ValueError(f"Reversible: got coupling={lam}; expected a number in (0, 1], near 1")
    start, unravel = ravel_pytree(state)
    smooth = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in args]

    def together(theta, rest):
        theta, rest = iter(theta), iter(rest)
        return tuple(next(theta if each else rest) for each in smooth)

    def increment(u, v, y, theta, rest):
        """Psi_{v - u}(u, y)."""
        rows = (jnp.asarray(part, y.dtype) for part in (method.nodes, method.rows))
        h = v - u

        def stage(ks, row):
            index, node, weights = row
            # Not u + node h: the last node is v to the bit, inside of the whole way.
            place = (1.0 - node) * u + node * v
            rate = field(place, unravel(y + h * (weights @ ks)), *together(theta, rest))
            return ks.at[index].set(ravel_pytree(rate)[0]), None

        stages = len(method.weights)
        ks = jnp.zeros((stages, y.size), y.dtype)
        ks, _ = jax.lax.scan(stage, ks, (jnp.arange(stages), *rows))
        return h * (jnp.asarray(method.weights, y.dtype) @ ks)

    def forward(us, start, theta, rest):
        def step(pair, ends):
            (y, z), (u, v) = pair, ends
            y = lam * y + (1.0 - lam) * z + increment(u, v, z, theta, rest)
            return (y, z - increment(v, u, y, theta, rest)), None

        return jax.lax.scan(step, (start, start), (us[:-1], us[1:]))[0]

    def kept(us, start, theta, rest):
        end = forward(us, start, theta, rest)
        return end[0], (us, end, theta, rest)

    def pulled(residuals, cotangent):
        us, end, theta, rest = residuals

        def increments(u, v, y, theta):
            return increment(u, v, y, theta, rest)

        def back(carry, ends):
            (y, z), (dy, dz), dtheta = carry
            u, v = ends
            psi, pull = jax.vjp(increments, v, u, y, theta)
            z = z + psi
            dv, du, more, first = pull(-dz)
            dy = dy + more
            psi, pull = jax.vjp(increments, u, v, z, theta)
            y = (y - (1.0 - lam) * z - psi) / lam
            du2, dv2, more, second = pull(dy)
            pair = lam * dy, dz + (1.0 - lam) * dy + more
            dtheta = jax.tree.map(lambda *parts: sum(parts), dtheta, first, second)
            return ((y, z), pair, dtheta), (du + du2, dv + dv2)

        zero = jnp.zeros_like(cotangent), jax.tree.map(jnp.zeros_like, theta)
        carry = (end, (cotangent, zero[0]), zero[1])
        (_, (dy, dz), dtheta), (du, dv) = jax.lax.scan(back, carry, (us[:-1], us[1:]), reverse=True)
        dus = jnp.zeros_like(us).at[:-1].add(du).at[1:].add(dv)
        return dus, dy + dz, dtheta, None

    solve = jax.custom_vjp(lambda *operands: forward(*operands)[0])
    solve.defvjp(kept, pulled)
    pairs = list(zip(args, smooth, strict=True))
    theta, rest = (tuple(leaf for leaf, s in pairs if s == kind) for kind in (True, False))
    return unravel(solve(us, start, theta, rest))


def closed(fn: Callable[..., Any], *examples: Any) -> tuple[Field, tuple[Array, ...]]:
    """A function that closes over no tracer, for derivatives that go through arguments alone.

    ``jax.closure_convert`` leaves integers inside, e.g. labels, whose batch axis under ``vmap`` the
    derivative of an adjoint does not see.

    Args:
        fn: a function of pytrees.
        *examples: arguments of the shapes that it will be called with.

    Returns:
        The function of the same arguments and then of what it closed over; and that, arrays of any
        dtype.
    """
    jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*examples)
    traced = [isinstance(leaf, jax.core.Tracer) for leaf in jaxpr.consts]
    known = [leaf for leaf, each in zip(jaxpr.consts, traced, strict=True) if not each]

    def field(*args):
        inputs, given = args[: len(examples)], iter(args[len(examples) :])
        rest = iter(known)
        consts = [next(given if each else rest) for each in traced]
        flat = jax.core.eval_jaxpr(jaxpr.jaxpr, consts, *jax.tree.leaves(inputs))
        return jax.tree.unflatten(jax.tree.structure(shapes), flat)

    return field, tuple(leaf for leaf, each in zip(jaxpr.consts, traced, strict=True) if each)
