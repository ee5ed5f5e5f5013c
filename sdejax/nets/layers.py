"""Layers with the initialisation and the numerics of the published networks.

Kernels are drawn uniformly with variance ``scale`` over the mean of fan-in and fan-out; a scale of
zero gives exact zeros (published: 1e-10), so that a residual branch starts as nothing.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def wide(dtype: Any) -> Any:
    """The type for phases, logits and statistics: float32, or float64 where ``dtype`` is."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def kernel_init(scale: float = 1.0) -> Any:
    """Uniform initialiser of variance scale / mean(fan-in, fan-out); zeros for scale 0."""
    if scale == 0:
        return nn.initializers.zeros_init()
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


def conv(
    features: int,
    size: int = 3,
    *,
    scale: float = 1.0,
    stride: int = 1,
    padding: str = "SAME",
    dilation: int = 1,
    bias: bool = True,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Conv:
    """A size x size convolution, its taps ``dilation`` pixels apart."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=padding,
        kernel_dilation=(dilation, dilation),
        use_bias=bias,
        kernel_init=kernel_init(scale),
        dtype=dtype,
        name=name,
    )


def dense(
    features: int, *, scale: float = 1.0, dtype: Any = None, name: str | None = None
) -> nn.Dense:
    """A linear map of the last axis; on images a 1x1 convolution ("NIN")."""
    return nn.Dense(features, kernel_init=kernel_init(scale), dtype=dtype, name=name)


class GroupNorm(nn.Module):
    """``(x - m) / sqrt(v + 1e-6) * scale + bias``, m and v of the groups of channels of an example.

    Parameters are those of ``nn.GroupNorm``. Means are taken channel by channel and then over the
    channels of a group, which never moves the channels out of the last axis: on a CPU twice as
    fast. v is the mean of (x - m)^2, since E[x^2] - m^2 cancels in float32.
    """

    num_groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        """[n, ..., channels] of the same shape, in ``dtype``."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        dtype = jnp.result_type(x, scale) if self.dtype is None else self.dtype

        def group_mean(h):
            mean = jnp.mean(h, axis=tuple(range(1, h.ndim - 1)), keepdims=True)
            grouped = mean.reshape(*mean.shape[:-1], self.num_groups, -1)
            mean_of_each = jnp.mean(grouped, axis=-1, keepdims=True)
            return jnp.broadcast_to(mean_of_each, grouped.shape).reshape(mean.shape)

        h = x.astype(wide(x.dtype))
        h = h - group_mean(h)
        row = (1,) * (h.ndim - 1) + (channels,)
        scale, bias = (k.astype(h.dtype).reshape(row) for k in (scale, bias))
        return (h * (jax.lax.rsqrt(group_mean(h**2) + 1e-6) * scale) + bias).astype(dtype)


def norm(
    channels: int, group_size: int = 4, *, dtype: Any = None, name: str | None = None
) -> GroupNorm:
    """Group normalisation, eps 1e-6, statistics in float32 or better.

    At most 32 groups of at least ``group_size`` channels: the largest such number that divides
    ``channels``. For the published widths this is min(channels // group_size, 32).

    Reference: Wu & He 2018 (arXiv:1803.08494).
    """
    most = max(1, min(channels // group_size, 32))
    groups = next(g for g in range(most, 0, -1) if channels % g == 0)
    return GroupNorm(groups, dtype=dtype, name=name)
