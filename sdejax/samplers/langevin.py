"""Markov chains for any known log-density: Langevin and Hamiltonian Monte Carlo.

A density need only be known up to a factor, p(x) proportional to exp(log_prob(x)). A kernel is a
pair of pure functions like blackjax's, ``init(position) -> state`` and
``step(key, state) -> (state, info)``; any kernel of blackjax's fits in ``mcmc`` as it is.

    unadjusted     x' = x + h grad log p(x) + sqrt(2h) z,
    underdamped    dx = v dt,  dv = grad log p(x) dt - c v dt + sqrt(2c) dW,  split as B A O A B,

are biased at order h and h^2; ``mala`` and ``hmc`` accept or reject and are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdejax.samplers.base import finite
from sdejax.types import Data, Key, Scalar

LogProb = Callable[[Data], Scalar]


class Kernel(NamedTuple):
    """A Markov chain; states have a ``position`` and infos an ``acceptance_rate``."""

    init: Callable[[Data], Any]
    step: Callable[[Key, Any], tuple[Any, Any]]


class LangevinState(NamedTuple):
    """Where an unadjusted chain is, with the gradient of the log-density there."""

    position: Data
    velocity: Data  # zero for the overdamped chain, which has none
    gradient: Data


class Acceptance(NamedTuple):
    """What an unadjusted step tells: it is always accepted."""

    acceptance_rate: Scalar


class ChainInfo(NamedTuple):
    """The report of a chain."""

    acceptance_rate: Float[Array, "*kept"]  # mean over the steps up to each kept sample
    result: Int[Array, ""]  # SUCCESS or NOT_FINITE


def mcmc(
    key: Key, kernel: Any, x: Data, steps: int, *, thin: int = 1
) -> tuple[Float[Array, "kept *event"], ChainInfo]:
    """Runs one chain; ``vmap`` over keys and starts for many.

    Args:
        key: the chain's key; step i draws from ``fold_in(key, i)``.
        kernel: a ``Kernel``, or one of blackjax's (``blackjax.nuts(...)``).
        x: where it starts, [*event].
        steps: number of steps, a multiple of ``thin``.
        thin: one sample is kept of so many steps; memory grows with steps/thin alone.

    Returns:
        samples [steps/thin, *event], the start not among them, and ``ChainInfo``.

    Raises:
        ValueError: unless thin >= 1 and steps is a positive multiple of it.
    """
    if thin < 1 or steps < 1 or steps % thin:
        raise ValueError(
            f"mcmc: got steps={steps}, thin={thin}; expected steps a positive multiple of thin >= 1"
        )

    def one(state, index):
        state, info = kernel.step(jax.random.fold_in(key, index), state)
        return state, jnp.asarray(info.acceptance_rate)

    def block(state, indices):
        state, rates = jax.lax.scan(one, state, indices)
        return state, (state.position, jnp.mean(rates))

    indices = jnp.arange(steps).reshape(steps // thin, thin)
    last, (samples, rates) = jax.lax.scan(block, kernel.init(x), indices)
    return samples, ChainInfo(rates, finite(last.position))


def unadjusted_langevin(log_prob: LogProb, step_size: float) -> Kernel:
    """ULA, the Euler-Maruyama chain of the overdamped Langevin equation.

    ``x' = x + h grad log p(x) + sqrt(2h) z``. On N(m, s^2) its stationary law is
    N(m, s^2/(1 - h/(2 s^2))), for h < 2 s^2. One gradient a step.

    Args:
        log_prob: x [*event] -> log p(x) + constant, [].
        step_size: h, in units of x squared.

    Returns:
        The kernel.

    Raises:
        ValueError: unless step_size > 0.

    Reference: Roberts and Tweedie 1996, Bernoulli 2(4), section 1.4.1.
    """
    _require_positive("unadjusted_langevin", step_size=step_size)
    gradient = jax.grad(log_prob)

    def step(key, state):
        z = jax.random.normal(key, state.position.shape, state.position.dtype)
        x = state.position + step_size * state.gradient + math.sqrt(2.0 * step_size) * z
        return LangevinState(x, state.velocity, gradient(x)), _accepted(x)

    return Kernel(lambda x: LangevinState(x, jnp.zeros_like(x), gradient(x)), step)


def underdamped_langevin(log_prob: LogProb, step_size: float, friction: float = 1.0) -> Kernel:
    """Kinetic Langevin dynamics by BAOAB: half kick, half drift, exact noise, and back.

    The O part is the exact Ornstein-Uhlenbeck step v' = e v + sqrt(1 - e^2) z, e = exp(-c h). The
    bias of x is of order h^2, and none on Gaussians for h below twice their smallest standard
    deviation. One gradient a step; it starts at rest.

    Args:
        log_prob: x [*event] -> log p(x) + constant, [].
        step_size: h, in units of x (the mass is 1).
        friction: c, per unit of time.

    Returns:
        The kernel.

    Raises:
        ValueError: unless step_size > 0 and friction > 0.

    Reference: Leimkuhler and Matthews 2013, Applied Mathematics Research eXpress 2013(1), 34-56,
    arXiv:1203.5428.
    """
    _require_positive("underdamped_langevin", step_size=step_size, friction=friction)
    gradient = jax.grad(log_prob)
    kept = math.exp(-friction * step_size)
    fresh = math.sqrt(-math.expm1(-2.0 * friction * step_size))
    half = 0.5 * step_size

    def step(key, state):
        z = jax.random.normal(key, state.position.shape, state.position.dtype)
        v = state.velocity + half * state.gradient
        x = state.position + half * v
        v = kept * v + fresh * z
        x = x + half * v
        force = gradient(x)
        return LangevinState(x, v + half * force, force), _accepted(x)

    return Kernel(lambda x: LangevinState(x, jnp.zeros_like(x), gradient(x)), step)


def mala(log_prob: LogProb, step_size: float) -> Kernel:
    """MALA: steps of ``unadjusted_langevin``, accepted or rejected by Metropolis and Hastings.

    Exact for any step size; the best has an acceptance rate near 0.57 in many dimensions.

    Args:
        log_prob: x [*event] -> log p(x) + constant, [].
        step_size: h, in units of x squared.

    Returns:
        The kernel.

    Raises:
        ValueError: unless step_size > 0.
        ImportError: without blackjax, ``pip install 'sdejax[mcmc]'``.

    Reference: Roberts and Tweedie 1996, Bernoulli 2(4), section 1.4.2; Roberts and Rosenthal 1998.
    """
    _require_positive("mala", step_size=step_size)
    algorithm = _blackjax("mala").mala(log_prob, step_size)
    return Kernel(algorithm.init, algorithm.step)


def hmc(log_prob: LogProb, step_size: float, leapfrog_steps: int = 10) -> Kernel:
    """Hamiltonian Monte Carlo: leapfrog trajectories from fresh velocities, accepted or rejected.

    Exact for any step size; the best has an acceptance rate near 0.65. Unit mass: scale x so that
    its axes are alike, or give ``mcmc`` a kernel of blackjax's with a mass matrix.

    Args:
        log_prob: x [*event] -> log p(x) + constant, [].
        step_size: h, in units of x.
        leapfrog_steps: gradients a step of the chain.

    Returns:
        The kernel.

    Raises:
        ValueError: unless step_size > 0 and leapfrog_steps >= 1.
        ImportError: without blackjax, ``pip install 'sdejax[mcmc]'``.

    Reference: Duane et al. 1987; Neal 2011, arXiv:1206.1901, section 3.
    """
    _require_positive("hmc", step_size=step_size, leapfrog_steps=leapfrog_steps)
    blackjax = _blackjax("hmc")

    def of(position):
        # blackjax reads the dimension off the mass matrix.
        mass = jnp.ones((position.size,), position.dtype)
        return blackjax.hmc(log_prob, step_size, mass, leapfrog_steps)

    return Kernel(lambda x: of(x).init(x), lambda key, state: of(state.position).step(key, state))


def _accepted(x: Data) -> Acceptance:
    return Acceptance(jnp.ones((), x.dtype))


def _require_positive(name: str, **values: float | int) -> None:
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: got {key}={value}; expected a positive number")


def _blackjax(name: str) -> Any:
    """blackjax, imported where it is used: it is an extra."""
    try:
        import blackjax
    except ImportError as error:
        raise ImportError(
            f"{name} needs blackjax, which is an extra: pip install 'sdejax[mcmc]'"
        ) from error
    return blackjax
