"""RefineNet with dilated convolutions, the backbone of NCSN and NCSNv2.

Stages of two residual blocks look at the image, each from further off: the first as it is, a stage
of dilation 1 after halving it, a stage of dilation d > 1 through 3x3 convolutions whose taps lie d
pixels apart, which see as far as another halving would and lose no pixels. From the last stage to
the first, refine blocks then join what a stage saw with what came from the stages below it:

    RCU, residual units   h <- h + conv(elu(conv(elu(h)))), on each input;
    MSF, fusion           the sum of conv(h) over the inputs, resized to the larger;
    CRP, chained pooling  h <- elu(h), then h + c_1 + c_2 with c_i = conv(pool5(c_(i-1))), c_0 = h;
    RCU                   once more; three units in the last block.

In NCSN a conditional normalisation stands before every elu, fusion and pooling. Here ``elu`` is
the ELU function and pool5 a 5x5 window of stride 1.

Reference: Lin et al. 2017, arXiv:1611.06612, section 3.2; Yu and Koltun 2016, arXiv:1511.07122, for
dilation; Song and Ermon 2019, arXiv:1907.05600, appendix A.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from sdejax.nets.layers import conv, wide
from sdejax.nets.resample import Image, Other, mean_down
from sdejax.types import Array, Int

Level = Int[Array, " batch"] | None
Norm = Callable[..., Any] | None  # name= -> a module called with (x, level); None leaves x as it is
Pool = Callable[[Array], Array]

# The published kernels are uniform on +- 1/sqrt(fan-in), a third of the variance of this library's.
_conv = functools.partial(conv, scale=1 / 3)


def _window(x: Array, reduce: Callable[[Array, Array], Array], border: float) -> Array:
    """5x5 windows of stride 1, rows and then columns, with ``border`` beyond the image."""
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
        wider = jnp.pad(x, pad, constant_values=border)
        x = functools.reduce(
            reduce, [lax.slice_in_dim(wider, i, i + size, axis=axis) for i in range(5)]
        )
    return x


def max_pool(x: Image) -> Image:
    """The largest of each 5x5 window, of the pixels inside the image: NCSNv2's pooling."""
    return _window(x, jnp.maximum, -np.inf)


def mean_pool(x: Image) -> Image:
    """The mean of each 5x5 window, with zeros beyond the image that count: NCSN's pooling."""
    return _window(x, operator.add, 0.0) / 25


def _interpolation(size: int, to: int) -> np.ndarray:
    """Linear interpolation as a matrix [to, size]; the first and last points coincide."""
    place = np.arange(to) * ((size - 1) / max(to - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(size)[None, :]))


def resize_bilinear(x: Image, height: int, width: int) -> Other:
    """Images of another size by bilinear interpolation, with corners on corners.

    Args:
        x: images [batch, height, width, channels].
        height: the new height.
        width: the new width.

    Returns:
        Images [batch, height, width, channels].
    """
    rows, columns = (
        jnp.asarray(_interpolation(size, to), wide(x.dtype))
        for size, to in ((x.shape[1], height), (x.shape[2], width))
    )
    out = jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=lax.Precision.HIGHEST)
    return out.astype(x.dtype)


def _normalised(norm: Norm, name: str, x: Array, level: Level) -> Array:
    return x if norm is None else norm(name=name)(x, level)


class ResidualBlock(nn.Module):
    """``shortcut(x) + conv(elu(norm(conv(elu(norm(x))))))``; the second convolution may widen.

    Attributes:
        features: channels of the output.
        first: the first block of a stage, whose shortcut has a convolution.
        dilation: distance of the taps; the first block of a stage of dilation 1 halves the image
            by means over 2x2 pixels.
        norm: makes the normalisations.
        dtype: type to compute in.
    """

    features: int
    first: bool = False
    dilation: int = 1
    norm: Norm = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, level: Level = None) -> Other:
        """Images [batch, height, width, features], or half the size."""
        make = functools.partial(_conv, dilation=self.dilation, dtype=self.dtype)
        halve = self.first and self.dilation == 1
        h = nn.elu(_normalised(self.norm, "norm1", x, level))
        h = make(x.shape[-1], name="conv1")(h)
        h = nn.elu(_normalised(self.norm, "norm2", h, level))
        h = make(self.features, name="conv2")(h)
        if halve:  # a 1x1 convolution of means is the mean of convolutions
            h, x = mean_down(h), mean_down(x)
        if self.first:
            x = make(self.features, 1 if halve else 3, name="shortcut")(x)
        return x + h


class ResidualUnits(nn.Module):
    """RCU: ``units`` times two convolutions, without bias, beside the identity."""

    units: int
    norm: Norm = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, level: Level = None) -> Image:
        """Images of the shape of x."""
        for unit in range(self.units):
            h = x
            for stage in range(2):
                h = nn.elu(_normalised(self.norm, f"norm_{unit}_{stage}", h, level))
                name = f"conv_{unit}_{stage}"
                h = _conv(x.shape[-1], bias=False, dtype=self.dtype, name=name)(h)
            x = x + h
        return x


class ChainedPooling(nn.Module):
    """CRP: the input and what two windows of growing size see of it, summed."""

    pool: Pool
    norm: Norm = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, level: Level = None) -> Image:
        """Images of the shape of x."""
        x = path = nn.elu(x)
        for i in range(2):
            path = self.pool(_normalised(self.norm, f"norm_{i}", path, level))
            name = f"conv_{i}"
            path = _conv(x.shape[-1], bias=False, dtype=self.dtype, name=name)(path)
            x = x + path
        return x


class Fusion(nn.Module):
    """MSF: inputs of several sizes and widths as one of the size of the first."""

    features: int
    norm: Norm = None
    dtype: Any = None

    @nn.compact
    def __call__(self, xs: list[Array], level: Level = None) -> Array:
        """Images [batch, height, width, features] of xs, the first of which is the largest."""
        size = xs[0].shape[1:3]
        parts = []
        for i, x in enumerate(xs):
            h = _normalised(self.norm, f"norm_{i}", x, level)
            h = _conv(self.features, dtype=self.dtype, name=f"conv_{i}")(h)
            parts.append(h if h.shape[1:3] == size else resize_bilinear(h, *size))
        return functools.reduce(operator.add, parts)


class RefineBlock(nn.Module):
    """Residual units on each input, fusion, chained pooling, residual units.

    Attributes:
        features: channels of the output.
        pool: the pooling of CRP.
        units: of the last RCU.
        norm: makes the normalisations.
        dtype: type to compute in.
    """

    features: int
    pool: Pool
    units: int = 1
    norm: Norm = None
    dtype: Any = None

    @nn.compact
    def __call__(self, xs: list[Array], level: Level = None) -> Array:
        """Images [batch, height, width, features]; a single input must have that width."""
        make = {"norm": self.norm, "dtype": self.dtype}
        xs = [ResidualUnits(2, **make, name=f"adapt_{i}")(x, level) for i, x in enumerate(xs)]
        h = Fusion(self.features, **make, name="fuse")(xs, level) if len(xs) > 1 else xs[0]
        h = ChainedPooling(self.pool, **make, name="pool")(h, level)
        return ResidualUnits(self.units, **make, name="output")(h, level)


class RefineNet(nn.Module):
    """The whole backbone, from an image to an image; zero before training.

    Attributes:
        out_channels: channels of the output.
        nf: width; stage i has nf * ch_mult[i] channels.
        ch_mult: multipliers of the width, one per stage.
        dilations: one per stage; after the first, a stage of dilation 1 halves the image.
        pool: the pooling of the refine blocks.
        norm: makes the normalisations of the stages and of the output.
        refine_norm: makes those of the refine blocks.
        dtype: type to compute in, such as bfloat16; None promotes input and parameters.
    """

    out_channels: int
    nf: int
    ch_mult: tuple[int, ...]
    dilations: tuple[int, ...]
    pool: Pool
    norm: Norm = None
    refine_norm: Norm = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, level: Level = None) -> Other:
        """Images [batch, height, width, out_channels] of x, at levels [batch] if norms ask."""
        self._check(x)
        h = _conv(self.nf, dtype=self.dtype, name="conv_in")(x)
        seen = []
        for i, (mult, dilation) in enumerate(zip(self.ch_mult, self.dilations, strict=True)):
            for k in range(2):
                h = ResidualBlock(
                    self.nf * mult,
                    first=i > 0 and k == 0,
                    dilation=dilation,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"stage_{i}_{k}",
                )(h, level)
            seen.append(h)
        joined: list[Array] = []  # what came from below: nothing at first
        for i in reversed(range(len(seen))):
            mult = self.ch_mult[-1 if not joined else max(i - 1, 0)]
            block = RefineBlock(
                self.nf * mult,
                self.pool,
                units=1 if i else 3,
                norm=self.refine_norm,
                dtype=self.dtype,
                name=f"refine_{i}",
            )
            joined = [block([seen[i], *joined], level)]
        h = nn.elu(_normalised(self.norm, "norm_out", joined[0], level))
        return conv(self.out_channels, scale=0.0, dtype=self.dtype, name="conv_out")(h)

    def _check(self, x: Array) -> None:
        if len(self.ch_mult) != len(self.dilations) or self.dilations[0] != 1:
            raise ValueError(
                f"dilations: got {self.dilations} for {len(self.ch_mult)} stages of "
                f"ch_mult={self.ch_mult}; expected one each, the first of them 1"
            )
        height, width = x.shape[1:3]
        factor = 2 ** (self.dilations.count(1) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"x: got images of {height}x{width}, expected sides divisible by {factor}, since "
                f"dilations={self.dilations} halve them {self.dilations.count(1) - 1} times; pad "
                "the images or dilate earlier"
            )


def check_unlabelled(cond: Any) -> None:
    """Refuse labels, which these networks have no table for.

    Raises:
        ValueError: if ``cond`` is given.
    """
    if cond is not None:
        raise ValueError(
            "cond: got labels, but NCSN and NCSNv2 are unconditional; call the network with "
            "cond=None, or use UNet for class labels"
        )
