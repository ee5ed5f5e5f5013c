"""Layers with the initialisation and the numerics of the published networks.

Kernels are drawn uniformly with variance ``scale`` over the mean of fan-in and fan-out; a scale of
zero gives exact zeros (published: 1e-10), so that a residual branch starts as nothing.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
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
    bias: bool = True,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Conv:
    """A size x size convolution."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=padding,
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


def norm(
    channels: int, group_size: int = 4, *, dtype: Any = None, name: str | None = None
) -> nn.GroupNorm:
    """Group normalisation, eps 1e-6, statistics in float32 or better.

    At most 32 groups of at least ``group_size`` channels: the largest such number that divides
    ``channels``. For the published widths this is min(channels // group_size, 32).

    Reference: Wu & He 2018 (arXiv:1803.08494).
    """
    most = max(1, min(channels // group_size, 32))
    groups = next(g for g in range(most, 0, -1) if channels % g == 0)
    # the fast variance, E[x^2] - E[x]^2, cancels in float32
    return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)
