"""NCSN, the first noise-conditional score network.

A RefineNet whose every normalisation has its own scales and shifts for each of a few noise levels:
the network is told the index of the level, 0 the largest, and its output is the score itself.
``conditioning.level_index`` gives that index for a process; train it at the levels alone
(``times.levels``).

Reference: Song and Ermon 2019, arXiv:1907.05600, section 5 and appendix A.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from sdejax.nets.instance_norm import CondInstanceNormPlus
from sdejax.nets.refinenet import RefineNet, check_unlabelled, mean_pool
from sdejax.nets.resample import Image
from sdejax.types import Array, Float, Int


class NCSN(nn.Module):
    """Score network conditioned on the index of a noise level.

    Parameters are float32; given in float64, the network computes in float64. The published one is
    the default with ``centered=False``.

    Attributes:
        out_channels: channels of the output; None: those of x.
        num_levels: number of noise levels, rows of each normalisation's table.
        nf: width; stage i has nf * ch_mult[i] channels.
        ch_mult: multipliers of the width, one per stage.
        dilations: one per stage; after the first, a stage of dilation 1 halves the image.
        centered: x lies in [-1, 1]; else in [0, 1], and the network maps it to 2 x - 1.
        dtype: type to compute in, such as bfloat16; None promotes input and parameters. The
            output then has x's type.
    """

    out_channels: int | None = None
    num_levels: int = 10
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    centered: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Image,
        t: Float[Array, " batch"] | Int[Array, " batch"],
        cond: Int[Array, " batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch height width out"]:
        """The score, images of the size of x; zero before training.

        Args:
            x: images [batch, height, width, channels].
            t: index of the noise level [batch], 0 the largest; rounded to the nearest. One
                outside 0 .. num_levels - 1 gives NaN.
            cond: None; there are no labels.
            train: without effect, there is no dropout.

        Returns:
            The score [batch, height, width, out_channels], in the units of x.

        Raises:
            ValueError: on an image that cannot be halved often enough, or labels.
        """
        check_unlabelled(cond)
        norm = partial(CondInstanceNormPlus, self.num_levels, self.dtype)
        net = RefineNet(
            self.out_channels or x.shape[-1],
            self.nf,
            self.ch_mult,
            self.dilations,
            mean_pool,
            norm,
            norm,
            self.dtype,
            name="refinenet",
        )
        h = net(x if self.centered else 2 * x - 1, jnp.round(t).astype(jnp.int32))
        return h if self.dtype is None else h.astype(x.dtype)
