"""Heun's method in noise coordinates, with churn: the sampler of EDM for any process.

In y = x/alpha, r = sigma/alpha the probability-flow ODE is dy/dr = eps. From level r a step may
first add noise, y + sqrt(r_hat^2 - r^2) S_noise z at the raised level r_hat >= r, which is the
forward process and keeps the marginals; then it goes down from r_hat to r_s by Heun,

    x' = alpha_s x0 + sigma_s eps             (Euler, from the estimate at r_hat),
    x_s = x' + alpha_s (r_s - r_hat)/2 (eps' - eps)        (eps' the estimate at x', s).

The paper states both algorithms for alpha = 1; dividing by alpha makes them those of any process.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdejax.prediction import Denoiser
from sdejax.samplers.base import Sampler
from sdejax.samplers.levels import Levels, noise_levels, require_level
from sdejax.sde import SDE
from sdejax.types import Data, Key, Scalar, Time, Times


class HeunRow(NamedTuple):
    """A step: ``x_hat = keep x + fresh z`` at ``raised``, then Heun to alpha_s, sigma_s."""

    keep: Scalar
    fresh: Scalar
    raised: Time  # the time of the raised level r_hat
    alpha: Scalar  # alpha_s
    sigma: Scalar  # sigma_s
    second: Time  # where the second evaluation is made: s, but ``raised`` where sigma_s = 0
    half: Scalar  # alpha_s (r_s - r_hat)/2, and 0 where sigma_s = 0


def heun(
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Sampler:
    """EDM's sampler: Heun in (x/alpha, sigma/alpha), deterministic or with churn.

    A step from level r = sigma/alpha in [churn_min, churn_max] is raised to r_hat = (1 + gamma) r,
    gamma = min(churn/N, sqrt(2) - 1), N the number of steps down to sigma = 0: those of the grid,
    and one more where it ends above 0 and ``sample`` denoises. r_hat is at most r at t_max, beyond
    which no network was trained, so the first step of a run adds no noise (the paper's, with
    ``churn_max = inf``, does). With churn = 0 it is the paper's Algorithm 1, of order 2.

    The paper's settings (table 5):

    | model | churn | churn_min | churn_max | churn_noise |
    |---|---|---|---|---|
    | CIFAR-10, VP | 30 | 0.01 | 1 | 1.007 |
    | CIFAR-10, VE | 80 | 0.05 | 1 | 1.007 |
    | ImageNet-64, of Dhariwal and Nichol | 80 | 0.05 | 50 | 1.003 |
    | ImageNet-64, EDM | 40 | 0.05 | 50 | 1.003 |

    Two evaluations a step. A step to sigma = 0 is Euler's, which needs one; the second is made all
    the same, at the raised level, and counts. To spend one there, as the paper does, end the grid
    at t_min > 0 and denoise: 17 steps of ``grids.karras`` and the denoising step are its N = 18 and
    35 evaluations.

    Args:
        churn: S_churn, the stochasticity of the whole run; 0 for none.
        churn_min: S_tmin, lowest level sigma/alpha that is raised, in units of the data.
        churn_max: S_tmax, highest level that is raised.
        churn_noise: S_noise, the standard deviation of the noise put in; slightly above 1 makes up
            for networks that remove too much.

    Returns:
        The sampler; it refuses alpha = 0, where r is infinite.

    Raises:
        ValueError: for a negative churn, an empty range of levels, or churn_noise <= 0.

    Reference: Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2, table 5.
    """
    if not 0.0 <= churn < math.inf:
        raise ValueError(f"heun: got churn={churn}; expected a finite number of at least 0")
    if not 0.0 <= churn_min < churn_max:
        raise ValueError(
            f"heun: got churn_min={churn_min}, churn_max={churn_max}; expected "
            "0 <= churn_min < churn_max, levels of sigma/alpha"
        )
    if not 0.0 < churn_noise < math.inf:
        raise ValueError(f"heun: got churn_noise={churn_noise}; expected a positive number")

    def prepare(sde: SDE, ts: Times) -> HeunRow:
        r = noise_levels(sde, ts)
        steps = ts.shape[0] - 1 + jnp.where(r[-1] > 0, 1.0, 0.0)
        inside = (r[:-1] >= churn_min) & (r[:-1] <= churn_max)
        gamma = jnp.where(inside, jnp.minimum(churn / steps, math.sqrt(2.0) - 1.0), 0.0)
        return heun_rows(sde, ts[:-1], (1.0 + gamma) * r[:-1], ts[1:], churn_noise)

    def step(denoiser: Denoiser, key: Key, x: Data, row: HeunRow) -> Data:
        return heun_step(denoiser, key if churn else None, x, row)

    def require(sde: SDE, t: Time) -> None:
        require_level("heun", sde, t)

    return Sampler(prepare, lambda x: x, step, lambda x: x, evaluations=2, require=require)


def heun_rows(
    sde: SDE, starts: Times, raised: Levels, ends: Times, noise: float | Scalar = 1.0
) -> HeunRow:
    """Rows of Heun steps that start by raising the noise level.

    Args:
        sde: the process.
        starts: times [n] of the states.
        raised: levels [n] to raise them to before the step; those not above the state's own level
            leave it as it is, those above that of t_max are taken as that one.
        ends: times [n] stepped to.
        noise: standard deviation of the noise put in, times what the forward process adds.

    Returns:
        ``HeunRow`` of [n] arrays.
    """
    alpha_t, alpha_s, sigma_s = (
        jax.vmap(lambda t, k=k: jnp.asarray(k(t)))(ts)
        for k, ts in ((sde.alpha, starts), (sde.alpha, ends), (sde.sigma, ends))
    )
    r = noise_levels(sde, starts)
    highest = noise_levels(sde, jnp.asarray(sde.t_max, starts.dtype)[None])[0]
    wanted = jnp.minimum(raised, highest)
    up = wanted > r
    r_hat = jnp.where(up, wanted, r)
    # Where nothing is raised the times stay exact, and the root has no infinite derivative at 0.
    t_hat = jnp.where(up, jax.vmap(sde.time_of_log_snr)(-2.0 * jnp.log(r_hat)), starts)
    alpha_hat = jnp.where(up, jax.vmap(lambda t: jnp.asarray(sde.alpha(t)))(t_hat), alpha_t)
    added = jnp.where(up, jnp.sqrt(jnp.where(up, (r_hat - r) * (r_hat + r), 1.0)), 0.0)
    last = sigma_s == 0
    return HeunRow(
        keep=alpha_hat / alpha_t,
        fresh=noise * alpha_hat * added,
        raised=t_hat,
        alpha=alpha_s,
        sigma=sigma_s,
        second=jnp.where(last, t_hat, ends),
        half=jnp.where(last, 0.0, 0.5 * (sigma_s - alpha_s * r_hat)),
    )


def heun_step(denoiser: Denoiser, key: Key | None, x: Data, row: HeunRow) -> Data:
    """One step of the module's head: two evaluations.

    Args:
        denoiser: (x, t) -> ``Estimate``.
        key: of the noise put in; None where no row puts any in.
        x: state [*event].
        row: its row.

    Returns:
        The state at s, [*event].
    """
    if key is not None:
        x = row.keep * x + row.fresh * jax.random.normal(key, x.shape, x.dtype)
    x0, eps = denoiser(x, row.raised)
    x = row.alpha * x0 + row.sigma * eps
    return x + row.half * (denoiser(x, row.second).eps - eps)
