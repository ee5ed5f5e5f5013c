"""Energy-parameterised networks: the output is a gradient, so the score has a potential.

A network E(params, u, t, cond) with one number as its output makes the network ``-dE/du`` of the
shape of u, for ``make_model`` and everything after it. Its Jacobian is minus a Hessian, hence
symmetric, and so is that of the score: with u = c_in x_t, an output p = -dE/du of the prediction
(a, b), det = a sigma - b alpha,

    score = -eps/sigma = (alpha p - a x_t) / (sigma det) = grad log p_t,
    log p_t(x) = -(a |x|^2 / 2 + (alpha / c_in) E(c_in x)) / (sigma det) + constant,

for every prediction type; of a score network without input scaling it is -E. The density is what
Metropolis steps and sums and products of models need, and cannot be had from a free score.

A network f with an output like its input gives an energy of the same cost of evaluation and of a
structure that trains as well: ``|u - f(u)|^2 / 2`` or ``u . f(u)``. Its gradient costs one
backward pass, and training it two.

Reference: Salimans and Ho 2021, Should EBMs model the energy or the score?, section 3; Du et al.
2023, arXiv:2302.11552, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sdejax.denoiser import Model
from sdejax.sde import SDE, as_time, coefficients
from sdejax.types import Cond, Data, Params, Scalar, Time

ApplyFn = Callable[..., Any]  # params, u, t, cond and, in training, a key -> of the shape of u
EnergyFn = Callable[..., Any]  # the same -> [], or [n] of a batch whose rows do not see each other


def conservative(energy_fn: EnergyFn) -> ApplyFn:
    """The network ``-dE/du``, for ``make_model``.

    Args:
        energy_fn: E(params, u, t, cond), with a key as a fifth argument where it has dropout; one
            number for one example, or one for each row of a batch.

    Returns:
        ``apply_fn`` (or ``train_apply_fn``) of the same arguments, batched as the energy is.
    """

    def apply_fn(params, u, t, cond, *key):
        return -jax.grad(lambda u: jnp.sum(energy_fn(params, u, t, cond, *key)))(u)

    return apply_fn


def distance(apply_fn: ApplyFn) -> EnergyFn:
    """``E = |u - f(u)|^2 / 2``: f is nearly a denoiser, and E grows away from the data.

    Args:
        apply_fn: the network f, with an output of the shape of u.

    Returns:
        The energy, summed over a batch.

    Reference: Salimans and Ho 2021, section 3.
    """

    def energy_fn(params, u, t, cond, *key):
        return 0.5 * jnp.sum((u - apply_fn(params, u, t, cond, *key).astype(u.dtype)) ** 2)

    return energy_fn


def inner(apply_fn: ApplyFn) -> EnergyFn:
    """``E = u . f(u)``: its gradient is 0 where the output of a fresh network is.

    Args:
        apply_fn: the network f, with an output of the shape of u.

    Returns:
        The energy, summed over a batch.

    Reference: Du et al. 2023, arXiv:2302.11552, section 4.
    """

    def energy_fn(params, u, t, cond, *key):
        return jnp.sum(u * apply_fn(params, u, t, cond, *key).astype(u.dtype))

    return energy_fn


def log_density(
    energy_fn: EnergyFn,
    model: Model,
    params: Params,
    sde: SDE,
    cond: Cond = None,
    *,
    batched: bool = False,
) -> Callable[[Data, Time], Scalar]:
    """log p_t(x) up to a constant of t, of a model made from ``conservative(energy_fn)``.

    Args:
        energy_fn: the energy E.
        model: ``make_model(conservative(energy_fn), ...)``.
        params: its parameters.
        sde: the process.
        cond: the condition of this example, or None.
        batched: whether the energy is written batch first, as for ``make_model``.

    Returns:
        (x [*event], t []) -> [], whose gradient in x is the score of the model.
    """

    def function(x: Data, t: Time) -> Scalar:
        t = as_time(t)
        c = coefficients(sde, t)
        scale, (a, b) = model.scaling(c), model.prediction(c)
        u, level, label = scale.astype(x.dtype) * x, model.conditioning(sde, t), cond
        if batched:
            u, level, label = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (u, level, label))
        energy = jnp.sum(energy_fn(params, u, level, label))
        half = 0.5 * jnp.sum(x**2)
        per_energy, per_half, det = (
            k.astype(x.dtype) for k in (c.alpha / scale, a, a * c.sigma - b * c.alpha)
        )
        return -(per_half * half + per_energy * energy) / (c.sigma.astype(x.dtype) * det)

    return function
