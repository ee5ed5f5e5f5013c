"""Annealed Langevin dynamics: T Langevin steps on each of a sequence of falling noise levels.

In y = x/alpha with noise level r = sigma/alpha, where any process is one with alpha = 1, a step is

    y + a/2 score + sqrt(a) z,    a = k r^2,

the same fraction k of the squared level everywhere. In x, where score = -eps/r, it is

    x - (k/2) sigma eps + sqrt(k) sigma z.

On Gaussian noise of level r such a step maps the variance by v -> (1 - k/2)^2 v + k r^2, whose
fixed point is v* = r^2/(1 - k/4). T steps from the level before, v = (gamma r)^2, end at

    v_T/r^2 = v*/r^2 + (1 - k/2)^(2T) (gamma^2 - v*/r^2),

always above 1: small k leaves the old noise in, large k puts too much new noise in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.prediction import Denoiser
from sdejax.samplers.base import Sampler
from sdejax.samplers.levels import noise_levels, require_level
from sdejax.sde import SDE
from sdejax.types import Data, Key, Scalar, Time, Times


class AnnealedRow(NamedTuple):
    """A level: rescale x from t to s, then Langevin steps at s."""

    s: Time  # the level's time; t where sigma_s = 0, where a step does nothing
    scale: Scalar  # alpha_s/alpha_t
    sigma: Scalar  # sigma_s
    k: Scalar  # step size in units of the squared level


def annealed_langevin(steps_per_level: int = 5, step_size: float | None = None) -> Sampler:
    """Annealed Langevin dynamics of NCSN and NCSNv2, for any process.

    The levels are the grid's times after the first, whose density the prior draws already:
    ``on_grid(annealed_langevin(...), 231)`` on ``ve(0.01, 50)`` with the uniform grid, which is
    geometric in sigma, has NCSNv2's levels for CIFAR-10. Its last denoising step is that of
    ``sample``. Evaluations: ``steps_per_level`` a level, plus 1 for denoising.

    Args:
        steps_per_level: T, Langevin steps on each level.
        step_size: k = a/r^2, in (0, 4): the paper's epsilon over its smallest sigma squared, twice
            that for NCSNv2, which writes the step as ``a score + sqrt(2 a) z``. NCSN's paper has
            T = 100 and 2e-5/0.01^2 = 0.2, its code 0.4. None takes ``step_size_rule`` on each
            level, NCSNv2's choice: 2 x 6.2e-6/0.01^2 = 0.124 for CIFAR-10.

    Returns:
        The sampler; it refuses alpha = 0, where levels are infinite.

    Raises:
        ValueError: for less than one step a level, or a step size outside (0, 4), where the
            variance diverges.

    Reference: Song and Ermon 2019, arXiv:1907.05600, algorithm 1; Song and Ermon 2020,
    arXiv:2006.09011, algorithm 1 and technique 4.
    """
    if steps_per_level < 1:
        raise ValueError(
            f"annealed_langevin: got steps_per_level={steps_per_level}; expected at least 1"
        )
    if step_size is not None and not 0.0 < step_size < 4.0:
        raise ValueError(
            f"annealed_langevin: got step_size={step_size}; expected a number in (0, 4), in units "
            "of the squared noise level: divide the paper's epsilon by sigma_L^2"
        )

    def prepare(sde: SDE, ts: Times) -> AnnealedRow:
        alpha = jax.vmap(lambda t: jnp.asarray(sde.alpha(t)))(ts)
        sigma = jax.vmap(lambda t: jnp.asarray(sde.sigma(t)))(ts)[1:]
        if step_size is None:
            r = noise_levels(sde, ts)
            gamma = r[:-1] / jnp.where(r[1:] > 0, r[1:], r[:-1])  # at sigma = 0 nothing moves
            k = jax.vmap(lambda g: step_size_rule(g, steps_per_level))(gamma)
        else:
            k = jnp.full_like(sigma, step_size)
        s = jnp.where(sigma == 0, ts[:-1], ts[1:])
        return AnnealedRow(s, alpha[1:] / alpha[:-1], sigma, k)

    def step(denoiser: Denoiser, key: Key, x: Data, row: AnnealedRow) -> Data:
        def langevin(x, key):
            z = jax.random.normal(key, x.shape, x.dtype)
            eps = denoiser(x, row.s).eps
            return x + row.sigma * (jnp.sqrt(row.k) * z - 0.5 * row.k * eps), None

        return jax.lax.scan(langevin, row.scale * x, jax.random.split(key, steps_per_level))[0]

    def require(sde: SDE, t: Time) -> None:
        require_level("annealed_langevin", sde, t)

    return Sampler(prepare, lambda x: x, step, lambda x: x, steps_per_level, require)


def variance_ratio(
    k: Float[Array, "*k"], gamma: Scalar | float, steps_per_level: int
) -> Float[Array, "*k"]:
    """The variance after T Langevin steps on pure noise, over that of the level.

    ``v*/r^2 + (1 - k/2)^(2T) (gamma^2 - v*/r^2)`` with ``v*/r^2 = 1/(1 - k/4)``.

    Args:
        k: step size in units of the squared level, in [0, 4).
        gamma: ratio of the level before to this one, >= 1.
        steps_per_level: T.

    Returns:
        The ratio, of the shape of k.

    Reference: Song and Ermon 2020, arXiv:2006.09011, proposition 3 with its alpha = k/2.
    """
    limit = 1.0 / (1.0 - 0.25 * k)
    return limit + (1.0 - 0.5 * k) ** (2 * steps_per_level) * (gamma**2 - limit)


def step_size_rule(gamma: Scalar | float, steps_per_level: int) -> Scalar:
    """NCSNv2's technique 4: the step size whose variance ratio is nearest to 1.

    The ratio is above 1 for every k, so nearest is least. It falls from gamma^2 at k = 0 to one
    minimum in [0, 2], found by bisection of its derivative; at T = 1 that is 2 (1 - 1/gamma^2).

    Args:
        gamma: ratio of the level before to this one, >= 1.
        steps_per_level: T.

    Returns:
        k, [], in [0, 2]; the paper's epsilon is k sigma_L^2/2.

    Reference: Song and Ermon 2020, arXiv:2006.09011, technique 4.
    """
    gamma = jnp.asarray(gamma)
    slope = jax.grad(lambda k: variance_ratio(k, gamma, steps_per_level))

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        falls = slope(middle) < 0.0
        return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

    bounds = (jnp.zeros_like(gamma), jnp.full_like(gamma, 2.0))
    halvings = math.ceil(-math.log2(jnp.finfo(gamma.dtype).eps))
    low, high = jax.lax.fori_loop(0, halvings, halve, bounds)
    k = jax.lax.stop_gradient(0.5 * (low + high))
    return k - slope(k) / jax.grad(slope)(k)  # a Newton step, which carries the derivative
