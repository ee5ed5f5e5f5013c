"""Features of the noise-conditioning number and of class labels.

A network sees the noise level as one real number t per example. Both embeddings turn it into
sines and cosines: [sin(w_i t), cos(w_i t)], with geometric frequencies w_i (sinusoidal) or with
frequencies drawn once from N(0, (2 pi scale)^2) (Gaussian Fourier). Phases reach thousands of
radians, so they are computed in float32 or better whatever the network computes in.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdejax.nets.layers import wide
from sdejax.types import Array, Float, Int


def sinusoidal(
    t: Float[Array, " batch"], features: int, *, max_period: float = 10_000.0
) -> Float[Array, "batch features"]:
    """Sinusoidal features of real-valued labels, [sin(w_i t), cos(w_i t)].

    w_i = max_period^(-i / (n - 1)), i = 0 .. n - 1, n = features // 2; an odd last feature is zero.

    Args:
        t: labels [batch], of the order of 1 to max_period (such as 999 t, or a level's index).
        features: number of features, at least 4.
        max_period: inverse of the lowest frequency, in radians per unit of t.

    Returns:
        Features [batch, features], float32 or better.

    Raises:
        ValueError: if ``features`` is below 4.

    Reference: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5; Ho et al. 2020
    (arXiv:2006.11239).
    """
    if features < 4:
        raise ValueError(f"features: got {features}, expected at least 4; widen the embedding")
    half = features // 2
    t = t.astype(wide(t.dtype))
    rate = -math.log(max_period) / (half - 1)
    phase = t[:, None] * jnp.exp(rate * jnp.arange(half, dtype=t.dtype))[None, :]
    out = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)
    return jnp.pad(out, ((0, 0), (0, features - 2 * half)))


class GaussianFourier(nn.Module):
    """Gaussian Fourier features, [sin(2 pi W t), cos(2 pi W t)], W ~ N(0, scale^2), fixed.

    W is stored with the parameters, as published checkpoints have it, and takes no gradient;
    leave it out of weight decay. The result is [batch, 2 features].

    Reference: Tancik et al. 2020 (arXiv:2006.10739); Song et al. 2021 (arXiv:2011.13456), with
    t = log sigma and scale 16.
    """

    features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, t: Float[Array, " batch"]) -> Float[Array, "batch twice"]:
        """Features [batch, 2 features] of the labels t [batch], float32 or better."""
        w = self.param("W", nn.initializers.normal(self.scale), (self.features,), jnp.float32)
        t = t.astype(wide(t.dtype))
        phase = 2 * math.pi * t[:, None] * jax.lax.stop_gradient(w)[None, :]
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class LabelEmbed(nn.Module):
    """A learned vector for each of ``num_classes`` labels and one for the null label.

    The null label is ``num_classes`` (the last row); ``cond=None`` stands for it too. A label above
    it gives NaN, not a neighbour's row.

    Reference: Dhariwal & Nichol 2021 (arXiv:2105.05233); Ho & Salimans 2022 (arXiv:2207.12598) for
    the null label.
    """

    num_classes: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, cond: Int[Array, " batch"] | None, batch: int) -> Float[Array, "b f"]:
        """Vectors [batch, features] of the labels cond [batch]."""
        shape = (self.num_classes + 1, self.features)
        table = self.param("embedding", nn.initializers.normal(1.0), shape, jnp.float32)
        label = jnp.full((batch,), self.num_classes) if cond is None else cond
        rows = jnp.take(table, label, axis=0, mode="fill")
        return rows if self.dtype is None else rows.astype(self.dtype)


def check_label(cond: Any, num_classes: int | None) -> None:
    """Refuse labels that the network has no table for.

    Raises:
        ValueError: if ``cond`` is given to a network without classes.
    """
    if cond is not None and num_classes is None:
        raise ValueError(
            "cond: got labels, but the network has num_classes=None; build it with "
            "num_classes=<number of classes> or call it with cond=None"
        )


def check_choice(name: str, got: object, choices: tuple[str, ...]) -> None:
    """Refuse a switch that is not one of its choices.

    Raises:
        ValueError: naming the switch, what was got and what it may be.
    """
    if got not in choices:
        raise ValueError(f"{name}: got {got!r}, expected one of {', '.join(map(repr, choices))}")
