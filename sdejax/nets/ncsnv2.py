"""NCSNv2: an unconditional RefineNet divided by the noise level.

The score at level sigma is of the order of 1/sigma, so s(x, sigma) = f(x)/sigma leaves to the
network only what has the same size at every level (technique 3). No table of levels is left: one
network serves any number of them, and any sigma in between. t is sigma
(``conditioning.noise_level``).

Larger images take more stages: "deeper" for 96 and 128 pixels, "deepest" for 256.

======= ====================== ==================
network ch_mult                dilations
======= ====================== ==================
NCSNv2  (1, 2, 2, 2)           (1, 1, 2, 4)
deeper  (1, 2, 2, 4, 4)        (1, 1, 1, 2, 4)
deepest (1, 2, 2, 2, 4, 4)     (1, 1, 1, 1, 2, 4)
======= ====================== ==================

Reference: Song and Ermon 2020, arXiv:2006.09011, section 3.3 and appendix B.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from sdejax.nets.instance_norm import InstanceNormPlus
from sdejax.nets.refinenet import RefineNet, check_unlabelled, max_pool
from sdejax.nets.resample import Image
from sdejax.types import Array, Float, Int


class NCSNv2(nn.Module):
    """Score network that divides by the noise level and is not told it otherwise.

    Parameters are float32; given in float64, the network computes in float64. The published one is
    the default with ``centered=False``.

    Attributes:
        out_channels: channels of the output; None: those of x.
        nf: width; stage i has nf * ch_mult[i] channels.
        ch_mult: multipliers of the width, one per stage.
        dilations: one per stage; after the first, a stage of dilation 1 halves the image.
        centered: x lies in [-1, 1]; else in [0, 1], and the network maps it to 2 x - 1.
        dtype: type to compute in, such as bfloat16; None promotes input and parameters. The
            output then has x's type.
    """

    out_channels: int | None = None
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    centered: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Image,
        t: Float[Array, " batch"],
        cond: Int[Array, " batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch height width out"]:
        """The score, images of the size of x; zero before training.

        Args:
            x: images [batch, height, width, channels].
            t: the noise level sigma [batch], in the units of x.
            cond: None; there are no labels.
            train: without effect, there is no dropout.

        Returns:
            The score [batch, height, width, out_channels], in the units of 1/sigma.

        Raises:
            ValueError: on an image that cannot be halved often enough, or labels.
        """
        check_unlabelled(cond)
        net = RefineNet(
            self.out_channels or x.shape[-1],
            self.nf,
            self.ch_mult,
            self.dilations,
            max_pool,
            partial(InstanceNormPlus, self.dtype),
            None,
            self.dtype,
            name="refinenet",
        )
        h = net(x if self.centered else 2 * x - 1)
        h = h / t.astype(h.dtype)[:, None, None, None]
        return h if self.dtype is None else h.astype(x.dtype)
