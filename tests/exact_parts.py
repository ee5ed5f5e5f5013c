"""A "trained" model whose network is exact: Gaussian data in the network's scale."""

import jax.numpy as jnp
import numpy as np

from sdejax import make_model, prediction, processes, truth
from sdejax.build import Parts
from sdejax.conditioning import raw_time
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling
from sdejax.denoiser import no_scaling
from sdejax.sde import coefficients

MEAN, STDS = np.asarray([0.1, -0.4, 0.2]), np.asarray([0.3, 0.8, 0.5])
SDE = processes.vp()


def gaussian():
    return truth.gaussian(
        jnp.asarray(MEAN, jnp.float32), jnp.asarray(np.diag(STDS**2), jnp.float32)
    )


def exact_parts(sde=SDE):
    def apply_fn(params, x, t, cond):
        estimate = truth.estimate(gaussian(), sde, x, t)
        return prediction.encode(prediction.v, coefficients(sde, t), estimate)

    model = make_model(
        apply_fn, prediction.v, batched=False, conditioning=raw_time, scaling=no_scaling
    )
    return Parts(sde, model, None, (3,), None)


def log_normal(y, mean=MEAN, std=STDS):
    z = (np.asarray(y, float) - mean) / std
    return np.sum(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi), axis=-1)


def noised(t):
    """Mean and deviations at a time, from the published formula of the VP process."""
    integral = 0.1 * t + 19.9 * t**2 / 2
    alpha, variance = np.exp(-integral / 2), -np.expm1(-integral)
    return alpha * MEAN, np.sqrt(alpha**2 * STDS**2 + variance)


def model_log_p(y):
    """log p of the ODE of the exact network: N(0, I) at t = 1, carried back axis by axis."""
    (m0, s0), (m1, s1) = noised(1e-3), noised(1.0)
    latent = m1 + s1 * (np.asarray(y, float) - m0) / s0
    return log_normal(latent, 0.0, np.ones(3)) + np.sum(np.log(s1 / s0))


def real_data(n=6):
    """Real data in units of their own: x = scale y + offset per entry."""
    scaling = Scaling((3.0, -1.0, 0.0), (2.0, 0.5, 10.0))
    y = MEAN + STDS * np.random.default_rng(0).normal(size=(n, 3))
    x = y * np.asarray(scaling.scale) + np.asarray(scaling.offset)
    return Dataset("exact", "test", x.astype(np.float32), scaling), y


def integer_data(n=6, levels=4001):
    """Integers so fine that the density does not vary within a bin."""
    half = (levels - 1) / 2
    scaling = Scaling((half,), (half / 4,), levels)  # y in [-4, 4]
    y = MEAN + STDS * np.random.default_rng(1).normal(size=(n, 3))
    k = np.clip(np.rint(y * half / 4 + half), 0, levels - 1).astype(np.int32)
    return Dataset("exact", "test", k, scaling), (k - half) / (half / 4), half / 4
