"""Residual, attention and combining blocks of DDPM, DDPM++ and NCSN++.

Submodules carry the names of the published checkpoints (GroupNorm_0, Conv_0, Dense_0, NIN_0 ...).

Reference: Ho et al. 2020 (arXiv:2006.11239); Brock et al. 2019 (arXiv:1809.11096); Song et al. 2021
(arXiv:2011.13456), appendix H.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdejax.nets.layers import conv, dense, norm, wide
from sdejax.nets.resample import Image, Other, Taps, resize
from sdejax.types import Array, Float


def add(x: Image, h: Image, rescale: bool) -> Image:
    """x + h, over sqrt 2 if ``rescale``, which keeps the variance of independent branches."""
    return (x + h) * math.sqrt(0.5) if rescale else x + h


class ResBlock(nn.Module):
    """Residual block: norm, silu, [resize,] conv, + noise level, norm, silu, dropout, conv.

    ``kind`` "ddpm" projects the shortcut with a small linear map where channels change; "biggan"
    with a 1x1 convolution where channels change or the block resizes (``direction`` "up", "down").
    The second convolution starts at ``init_scale``, zero as published.
    """

    features: int
    kind: str = "biggan"
    direction: str | None = None
    fir: bool = False
    taps: Taps = (1, 3, 3, 1)
    skip_rescale: bool = True
    group_size: int = 4
    dropout: float = 0.0
    init_scale: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, emb: Float[Array, "batch e"] | None, train: bool) -> Other:
        """Images [batch, height', width', features] from x and the embedding emb [batch, e]."""
        d = self.dtype
        h = nn.silu(norm(x.shape[-1], self.group_size, dtype=d, name="GroupNorm_0")(x))
        if self.direction is not None:
            h = resize(h, self.direction, self.fir, self.taps)
            x = resize(x, self.direction, self.fir, self.taps)
        h = conv(self.features, dtype=d, name="Conv_0")(h)
        if emb is not None:
            bias = dense(self.features, dtype=d, name="Dense_0")(nn.silu(emb))
            h += bias[:, None, None, :]
        h = nn.silu(norm(self.features, self.group_size, dtype=d, name="GroupNorm_1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(self.features, scale=self.init_scale, dtype=d, name="Conv_1")(h)
        if self.kind == "biggan" and (x.shape[-1] != self.features or self.direction is not None):
            x = conv(self.features, 1, dtype=d, name="Conv_2")(x)
        elif x.shape[-1] != self.features:
            x = dense(self.features, scale=0.1, dtype=d, name="NIN_0")(x)
        return add(x, h, self.skip_rescale)


class AttnBlock(nn.Module):
    """Self-attention over all pixels: one head, logits times channels^(-1/2), float32 softmax."""

    skip_rescale: bool = True
    group_size: int = 4
    init_scale: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Images of the shape of x."""
        b, height, width, c = x.shape
        h = norm(c, self.group_size, dtype=self.dtype, name="GroupNorm_0")(x)
        h = h.reshape(b, height * width, c)
        q, k, v = (dense(c, scale=0.1, dtype=self.dtype, name=f"NIN_{i}")(h) for i in range(3))
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=wide(q.dtype))
        weights = jax.nn.softmax(logits * c**-0.5, axis=-1).astype(v.dtype)
        h = jnp.einsum("bqk,bkc->bqc", weights, v)
        h = dense(c, scale=self.init_scale, dtype=self.dtype, name="NIN_3")(h)
        return add(x, h.reshape(x.shape), self.skip_rescale)


class Combine(nn.Module):
    """Join a reduced copy of the input to the features: 1x1 convolution, then "sum" or "cat"."""

    method: str = "sum"
    dtype: Any = None

    @nn.compact
    def __call__(self, pyramid: Image, h: Float[Array, "batch height width features"]) -> Other:
        """Features [batch, height, width, features], twice as many for "cat"."""
        p = conv(h.shape[-1], 1, dtype=self.dtype, name="Conv_0")(pyramid)
        return p + h if self.method == "sum" else jnp.concatenate([p, h], axis=-1)
