"""The Fokker-Planck equation on the line: how a density moves under an SDE, on a grid.

The density of dx = b(x, t) dt + g(x, t) dW obeys

    d_t p = -d_x J,    J = b p - d_x(D p) = a p - D d_x p,    D = g^2/2,    a = b - d_x D.

Cells of width h hold p_i and exchange what flows through the faces between them; no flow leaves
the ends, so the mass h sum_i p_i stays what it is (to rounding: thousands of steps on thousands of
cells lose up to a hundredth of it in float32, nothing in float64). Where J, a and D are constant
between two centres the equation J = a p - D d_x p has a solution, and it gives the face its flux

    J = D/h [B(-P) p_i - B(P) p_{i+1}],    B(z) = z/(e^z - 1),    P = integral of a/D over h

(Scharfetter and Gummel 1969; Chang and Cooper 1970). The state without flux has p_{i+1} = e^P p_i:
with P by two Gauss points, exact for drifts up to cubic, that is exp(-2U/g^2) for b = -U' and a
potential of degree four, to rounding. Off the diagonal -A is not positive for A in d_t p = A p, so
implicit Euler keeps p >= 0 for steps of any length. The order in h is 2; without noise (D = 0) the
flux is upwind, of order 1, and ``central`` is there instead, of order 2 but not positive.

Times may run down: then b and g are those of a reverse process, as ``dynamics.reverse_drift`` gives
them, dx = b dt + g dW with dt < 0. It serves teaching and tests: one dimension, reflecting ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.dynamics import Noise, reverse_drift
from sdejax.prediction import Denoiser
from sdejax.sde import SDE, diffusion, drift
from sdejax.types import Scalar, Times

Cells = Float[Array, " cells"]  # centres of cells, or a density on them
Faces = Float[Array, " faces"]
Flux = Callable[[Faces, Faces], Faces]
GAUSS = 0.5 / math.sqrt(3.0)  # the two Gauss points of a unit interval lie so far from its middle


class Process(NamedTuple):
    """dx = drift(x, t) dt + diffusion(x, t) dW on the line, of scalars."""

    drift: Callable[[Scalar, Scalar], Scalar]
    diffusion: Callable[[Scalar, Scalar], Scalar]


def forward(sde: SDE) -> Process:
    """Noising: ``b = f(t) x`` and ``g(t)``; for times that run up.

    Args:
        sde: the noising process.

    Returns:
        The process of scalars.
    """
    return Process(lambda x, t: drift(sde, x, t), lambda x, t: diffusion(sde, t).astype(x.dtype))


def reverse(sde: SDE, denoiser: Denoiser, noise: Noise = diffusion) -> Process:
    """Generation: ``b = v - w^2 score/2`` and ``w(t)``; for times that run down.

    Args:
        sde: the noising process.
        denoiser: (x, t) -> ``Estimate`` for events of shape [1], e.g. a network's.
        noise: w(t); g is the reverse SDE and ``dynamics.no_noise`` the probability-flow ODE.

    Returns:
        The process of scalars.
    """
    return Process(
        lambda x, t: reverse_drift(sde, denoiser, x[None], t, noise)[0],
        lambda x, t: noise(sde, t).astype(x.dtype),
    )


def cells(low: float, high: float, n: int) -> Cells:
    """The centres of n equal cells between two ends.

    Args:
        low: left end.
        high: right end.
        n: how many, at least 2.

    Returns:
        The centres [n].

    Raises:
        ValueError: unless low < high and n >= 2.
    """
    if not (low < high and n >= 2):
        raise ValueError(
            f"cells: got low={low}, high={high}, n={n}; expected low < high and two cells or more"
        )
    half = 0.5 * (high - low) / n
    return jnp.linspace(low + half, high - half, n)


def exponential(spread: Faces, push: Faces) -> Faces:
    """``D B(P)`` for D = ``spread`` and D P = ``push``: positive, and upwind without noise."""
    noisy = spread > 1e-3 * jnp.abs(push)  # beyond |P| = 1000 it is max(-push, 0) in any precision
    z = jnp.where(noisy, push / jnp.where(noisy, spread, 1.0), 1.0)
    return jnp.where(noisy, spread * _bernoulli(z), jnp.maximum(-push, 0.0))


def central(spread: Faces, push: Faces) -> Faces:
    """``D - D P/2``: order 2 without noise as well, positive only where |P| <= 2."""
    return spread - 0.5 * push


def solve(
    process: Process,
    p: Cells,
    x: Cells,
    ts: Times,
    *,
    steps: int = 1,
    theta: float = 0.5,
    flux: Flux = exponential,
) -> Float[Array, "n cells"]:
    """The density at given times, from the one at the first of them.

    A step of length k solves ``(1 - theta k A) q = p`` and moves on to ``p + (q - p)/theta``, with
    A taken between the ends of the step, at their mean weighted by theta. So theta = 1/2 (implicit
    midpoint, order 2) never looks at an end, where drift or noise may be infinite.

    Args:
        process: drift and diffusion; a reverse process with times that run down.
        p: density at ``ts[0]`` on the cells [n].
        x: centres of equal cells, from ``cells`` [n].
        ts: times to report, up or down [m].
        steps: equal steps between two of them.
        theta: 1/2 is of order 2; 1, implicit Euler, is of order 1 and keeps p >= 0 for any step.
        flux: ``exponential``, or ``central``.

    Returns:
        Densities [m, n], the first of them p.

    Raises:
        ValueError: for no steps, a theta outside [1/2, 1], or shapes that do not fit.

    Reference: Scharfetter and Gummel 1969, IEEE Trans. Electron Devices 16, eq. 9; Chang and Cooper
    1970, J. Comput. Phys. 6, eq. 18; Mohammadi and Borzi 2015, J. Numer. Math. 23 (order 2).
    """
    if x.shape != p.shape or x.ndim != 1 or x.size < 2:
        raise ValueError(f"solve: got p {p.shape} on x {x.shape}; expected the same [n], n >= 2")
    if steps < 1 or not 0.5 <= theta <= 1.0:
        raise ValueError(
            f"solve: got steps={steps}, theta={theta}; expected at least 1 and from 1/2 to 1"
        )

    def advance(p, ends):
        start, end = ends
        k = (end - start) / steps

        def step(i, p):
            t = start + (i + theta) * k
            return _step(process, p, x, t, k, theta, flux)

        p = jax.lax.fori_loop(0, steps, step, p)
        return p, p

    ts = ts.astype(x.dtype)
    _, found = jax.lax.scan(advance, p, (ts[:-1], ts[1:]))
    return jnp.concatenate([p[None], found])


def stationary(process: Process, x: Cells, t: float = 0.0) -> Cells:
    """The density without flux, p_{i+1} = e^P p_i, of mass 1: ``exp(-2U/g^2)`` for b = -U'.

    Args:
        process: drift and diffusion, the latter positive.
        x: centres of equal cells [n].
        t: the time at which they are taken [].

    Returns:
        The density [n], which ``solve`` leaves as it is.
    """
    spread, push = _faces(process, x, jnp.asarray(t, x.dtype), 1.0)
    log_p = jnp.concatenate([jnp.zeros_like(x[:1]), jnp.cumsum(push / spread)])
    return jax.nn.softmax(log_p) / _width(x)


def _step(process, p, x, t, k, theta, flux):
    """One step of length k, whose sign says which way time runs."""
    h, length = _width(x), jnp.abs(k)
    spread, push = _faces(process, x, t, jnp.sign(k))
    right, left = flux(spread, -push), flux(spread, push)  # per h: what p_i and p_{i+1} send
    rate = theta * length / h**2
    none = jnp.zeros_like(p[:1])
    out = jnp.concatenate([right, none]) + jnp.concatenate([none, left])
    q = jax.lax.linalg.tridiagonal_solve(
        jnp.concatenate([none, -rate * right]),
        1.0 + rate * out,
        jnp.concatenate([-rate * left, none]),
        p[:, None],
    )[:, 0]
    return q if theta == 1.0 else p + (q - p) / theta


def _faces(process, x, t, way):
    """D and h a = D P at the faces between cells; ``way`` is -1 where time runs down."""

    def at(y):
        def half_square(y):
            return 0.5 * process.diffusion(y, t) ** 2

        spread, slope = jax.jvp(half_square, (y,), (jnp.ones_like(y),))
        return spread, way * process.drift(y, t) - slope

    h = _width(x)
    middle = 0.5 * (x[:-1] + x[1:])
    points = jnp.stack([middle - GAUSS * h, middle + GAUSS * h])
    spread, a = jax.vmap(jax.vmap(at))(points)
    mean = jnp.mean(spread, axis=0)
    # D P = h mean(a D/D(y)): where there is no noise, D/D(y) is 1.
    ratio = jnp.where(spread > 0, mean[None] / jnp.where(spread > 0, spread, 1.0), 1.0)
    return mean, h * jnp.mean(a * ratio, axis=0)


def _width(x: Cells) -> Scalar:
    return (x[-1] - x[0]) / (x.size - 1)


def _bernoulli(z: Faces) -> Faces:
    """``z/(e^z - 1)``, 1 at 0 with slope -1/2, without overflow."""
    small = jnp.abs(z) < 1e-4
    # For z > 0 by e^-z, which does not overflow: B(z) = z e^-z/(1 - e^-z).
    size = jnp.where(small, 1.0, jnp.abs(z))
    rest = size / -jnp.expm1(-size)  # B(-|z|)
    return jnp.where(
        small, 1.0 - 0.5 * z + z**2 / 12.0, jnp.where(z > 0, rest * jnp.exp(-size), rest)
    )
