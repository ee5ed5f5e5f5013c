"""Instance normalisation++, which keeps the means that instance normalisation takes away.

For channel k of an image, with mean mu_k and standard deviation s_k over its pixels, and with m and
v the mean and the (unbiased) standard deviation of mu_1 .. mu_C,

    z_k = gamma_k ((x_k - mu_k)/s_k + alpha_k (mu_k - m)/v) + beta_k.

Without the second term a network could not tell a dark image from a bright one. In NCSN the three
vectors depend on the noise level, which is how that network is told it.

Reference: Song and Ermon 2019, arXiv:1907.05600, appendix A; Song and Ermon 2020, arXiv:2006.09011,
appendix B, for the unconditional layer.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdejax.nets.layers import wide
from sdejax.nets.resample import Image
from sdejax.types import Array, Float, Int

EPS = 1e-5
SPREAD = 0.02  # of fresh gamma and alpha about 1


def instance_norm_plus(x: Image, gamma: Array, alpha: Array, beta: Array, dtype: Any) -> Image:
    """The module's formula, with statistics in float32 or better.

    Args:
        x: images [batch, height, width, channels], of at least two channels.
        gamma: scale [channels], or [batch, 1, 1, channels] for one of each example.
        alpha: weight of the standardised means, likewise.
        beta: shift, likewise.
        dtype: of the result.

    Returns:
        Images of the shape of x.
    """
    h = x.astype(wide(x.dtype))
    mean = jnp.mean(h, axis=(1, 2), keepdims=True)
    h = h - mean
    inverse = jax.lax.rsqrt(jnp.mean(h**2, axis=(1, 2), keepdims=True) + EPS)
    mean = mean - jnp.mean(mean, axis=-1, keepdims=True)
    variance = jnp.sum(mean**2, axis=-1, keepdims=True) / (x.shape[-1] - 1)
    mean = mean * jax.lax.rsqrt(variance + EPS)
    gamma, alpha, beta = (k.astype(h.dtype) for k in (gamma, alpha, beta))
    if gamma.ndim == 1:
        gamma, alpha, beta = (k[None, None, None, :] for k in (gamma, alpha, beta))
    return (h * (inverse * gamma) + (gamma * alpha * mean + beta)).astype(dtype)


def _near_one(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return 1.0 + SPREAD * jax.random.normal(key, shape, dtype)


class InstanceNormPlus(nn.Module):
    """The layer of NCSNv2, the same at every noise level."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, level: Int[Array, " batch"] | None = None) -> Image:
        """Images [batch, height, width, channels] of the same shape; ``level`` has no effect."""
        shape = (x.shape[-1],)
        gamma = self.param("gamma", _near_one, shape, jnp.float32)
        alpha = self.param("alpha", _near_one, shape, jnp.float32)
        beta = self.param("beta", nn.initializers.zeros_init(), shape, jnp.float32)
        dtype = jnp.result_type(x, gamma) if self.dtype is None else self.dtype
        return instance_norm_plus(x, gamma, alpha, beta, dtype)


class CondInstanceNormPlus(nn.Module):
    """The layer of NCSN: gamma, alpha and beta are rows of a table, one row for each noise level.

    A level outside 0 .. num_levels - 1 gives NaN, not a neighbour's row.
    """

    num_levels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, level: Int[Array, " batch"]) -> Image:
        """Images [batch, height, width, channels] of the same shape, at levels [batch]."""
        channels = x.shape[-1]

        def fresh(key: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "levels thrice"]:
            near_one = _near_one(key, (shape[0], 2 * channels), dtype)
            return jnp.concatenate([near_one, jnp.zeros((shape[0], channels), dtype)], axis=1)

        table = self.param("embedding", fresh, (self.num_levels, 3 * channels), jnp.float32)
        dtype = jnp.result_type(x, table) if self.dtype is None else self.dtype
        rows = table.at[level].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        gamma, alpha, beta = jnp.split(rows[:, None, None, :], 3, axis=-1)
        return instance_norm_plus(x, gamma, alpha, beta, dtype)
