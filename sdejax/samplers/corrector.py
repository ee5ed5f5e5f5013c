"""Predictor-corrector sampling: after each step of any sampler, Langevin steps at the time reached.

A Langevin step x + h s(x) + sqrt(2h) z leaves p_s in place up to first order in h, so it pulls a
state that the predictor has left beside p_s back to it. The step size is set so that the score's
part has ``snr`` times half the norm of the noise's,

    h = 2 k (snr |z|/|s(x)|)^2,    k = (alpha_t/alpha_s)^2,

with k = 1 for VE and k = 1 - beta for VP. With the score s = -eps/sigma this is

    x - q sigma eps + sqrt(2 q) sigma z,    q = h/sigma^2 = 2 k (snr |z|/|eps|)^2,

in which nothing is infinite at sigma = 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdejax.prediction import Denoiser
from sdejax.samplers.base import Row, Sampler, State
from sdejax.sde import SDE
from sdejax.types import Data, Key, Scalar, Time, Times


class CorrectorRow(NamedTuple):
    """A step of the predictor and what the corrector needs after it."""

    predictor: Row
    s: Time  # the time stepped to; t where sigma_s = 0, where nothing is corrected
    sigma: Scalar  # sigma_s
    k: Scalar  # (alpha_t/alpha_s)^2


def predictor_corrector(
    predictor: Sampler, snr: float = 0.16, corrections: int = 1, shrink: float = 64.0
) -> Sampler:
    """Any sampler with Langevin steps after each of its own.

    The step size is that of each example: the paper's code takes the norms' mean over the batch,
    which makes an example depend on its neighbours. One example's norms vary much in few
    dimensions, and a step size that depends on x draws from p/h instead of p (on a line the
    variance comes out 1.6 times too large). So ``shrink`` numbers of size 1 are counted with both
    norms, ``|z|^2 + shrink`` over ``|eps|^2 + shrink``: next to the 3072 of an image of CIFAR-10
    they count for nothing, on a line they make h nearly constant; what is left shifts a skewed
    mixture on a line by about 0.02 of its sd at snr 0.16, however many steps. h is at most
    sigma^2, beyond which a step overshoots in directions of pure noise, so that it is finite where
    the score is 0.

    Args:
        predictor: e.g. ``reverse_diffusion()`` (the paper's), ``ancestral()`` or ``ddim()``. Its
            state may hold anything beside x; x itself is what gets corrected.
        snr: the paper's r: 0.16 for VE on CIFAR-10.
        corrections: Langevin steps after each step of the predictor, one evaluation each.
        shrink: numbers of size 1 counted with both norms; 0 is the paper's rule, an infinity of
            them would be h = 2 k (snr sigma)^2.

    Returns:
        The sampler, of ``predictor.evaluations + corrections`` a step.

    Raises:
        ValueError: unless snr > 0, corrections >= 1 and shrink >= 0; at the first step where the
            predictor's ``final`` is not a leaf of its state: there is no place for the corrected x.

    Reference: Song et al. 2021, arXiv:2011.13456, algorithms 1, 4 and 5, appendix G.
    """
    if not 0.0 < snr < math.inf:
        raise ValueError(f"predictor_corrector: got snr={snr}; expected a positive number")
    if corrections < 1:
        raise ValueError(
            f"predictor_corrector: got corrections={corrections}; expected at least 1, or use the "
            "predictor alone"
        )
    if not 0.0 <= shrink < math.inf:
        raise ValueError(
            f"predictor_corrector: got shrink={shrink}; expected a finite number of at least 0"
        )

    def prepare(sde: SDE, ts: Times) -> CorrectorRow:
        alpha = jax.vmap(lambda t: jnp.asarray(sde.alpha(t)))(ts)
        sigma = jax.vmap(lambda t: jnp.asarray(sde.sigma(t)))(ts)[1:]
        s, k = jnp.where(sigma == 0, ts[:-1], ts[1:]), (alpha[:-1] / alpha[1:]) ** 2
        return CorrectorRow(predictor.prepare(sde, ts), s, sigma, k)

    def step(denoiser: Denoiser, key: Key, state: State, row: CorrectorRow) -> State:
        keys = jax.random.split(key, corrections + 1)
        state = predictor.step(denoiser, keys[0], state, row.predictor)
        x = predictor.final(state)
        corrected, _ = jax.lax.scan(
            lambda x, key: (langevin_step(denoiser, key, x, row, snr, shrink), None),
            x,
            keys[1:],
        )
        return _replace(state, x, corrected)

    return Sampler(
        prepare,
        predictor.init,
        step,
        predictor.final,
        predictor.evaluations + corrections,
        predictor.require,
    )


def langevin_step(
    denoiser: Denoiser, key: Key, x: Data, row: CorrectorRow, snr: float, shrink: float
) -> Data:
    """One Langevin step at the time of the row, its size from this example's norms.

    Args:
        denoiser: (x, t) -> ``Estimate``.
        key: of the step's noise.
        x: state at ``row.s``, [*event].
        row: time, sigma and k.
        snr: signal-to-noise ratio of the step.
        shrink: numbers of size 1 counted with both norms.

    Returns:
        The state [*event], finite also where the score is 0.
    """
    eps = denoiser(x, row.s).eps
    z = jax.random.normal(key, x.shape, x.dtype)
    # q = wanted/norm, at most 1, without a division by 0.
    wanted = 2.0 * row.k * snr**2 * (jnp.sum(z**2) + shrink)
    norm = jnp.sum(eps**2) + shrink
    large = norm > wanted
    q = jnp.where(large, wanted / jnp.where(large, norm, 1.0), 1.0)
    moves = q > 0  # not at alpha = 0, where the root has no derivative
    root = jnp.where(moves, jnp.sqrt(2.0 * jnp.where(moves, q, 1.0)), 0.0)
    return x + row.sigma * (root * z - q * eps)


def _replace(state: State, x: Data, corrected: Data) -> Any:
    """The predictor's state with x, one of its leaves, replaced."""
    leaves, structure = jax.tree.flatten(state)
    if not any(leaf is x for leaf in leaves):
        raise ValueError(
            "predictor_corrector: got a predictor whose final(state) is not a leaf of its state; "
            "expected one that keeps x itself, so that the corrector can put x back"
        )
    return jax.tree.unflatten(structure, [corrected if leaf is x else leaf for leaf in leaves])
