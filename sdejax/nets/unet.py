"""The U-Net of DDPM, DDPM++ and NCSN++.

One image goes down through residual blocks, each level at half the side of the level above, and up
again with the outputs of the way down beside it. Switches turn one published network into another:

======== ============= ===== ============= ================== ============= ==========
network  resblock_type  fir  skip_rescale  progressive_input  progressive   group_size
======== ============= ===== ============= ================== ============= ==========
DDPM     "ddpm"        False False         "none"             "none"        1
DDPM++   "biggan"      False True          "none"             "none"        4
NCSN++   "biggan"      True  True          "residual"         "none"        4
1024 px  "biggan"      True  True          "input_skip"       "output_skip" 4
======== ============= ===== ============= ================== ============= ==========

`presets` spells the published networks out; `published` reads their weights.

Reference: Ho et al. 2020 (arXiv:2006.11239); Song et al. 2021 (arXiv:2011.13456), appendix H.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sdejax.nets.blocks import AttnBlock, Combine, ResBlock, add
from sdejax.nets.embed import GaussianFourier, LabelEmbed, check_choice, check_label, sinusoidal
from sdejax.nets.layers import conv, dense, norm
from sdejax.nets.resample import Downsample, Image, Taps, Upsample, resize
from sdejax.types import Array, Float, Int


def geometric_levels(sigma_min: float, sigma_max: float, count: int) -> np.ndarray:
    """The published table of noise levels: geometric, from sigma_max down to sigma_min, float64."""
    return np.exp(np.linspace(np.log(sigma_max), np.log(sigma_min), count))


class UNet(nn.Module):
    """U-Net conditioned on a noise level and, if asked for, on a class label.

    Parameters are float32; given in float64, the network computes in float64.

    Attributes:
        out_channels: channels of the output; None: those of x.
        image_size: side that ``attn_resolutions`` refers to; None: the longer side of x.
        nf: width; level i has nf * ch_mult[i] channels.
        ch_mult: multipliers of the width, one per level.
        num_res_blocks: residual blocks per level going down; one more going up.
        attn_resolutions: sides at which attention follows each block going down, and the last going
            up. The middle has attention always.
        dropout: rate in every block, drawn from the rng "dropout" when train=True.
        resblock_type: "biggan" (the block resizes) or "ddpm" (a resampler between levels).
        resamp_with_conv: "ddpm" resamplers have a convolution.
        fir: resample with the FIR filter, else by nearest pixels and means.
        fir_kernel: its taps.
        skip_rescale: divide every residual sum by sqrt 2.
        group_size: fewest channels of a normalisation group (groups number at most 32).
        progressive: multiscale output: "none", "output_skip" (a sum of images) or "residual".
        progressive_input: multiscale input: "none", "input_skip" (reduced images joined to the
            features) or "residual" (learned reductions).
        progressive_combine: how "input_skip" joins: "sum" or "cat".
        conditional: use the noise level t.
        embedding_type: "fourier" (t is sigma; log sigma is embedded) or "positional" (t is 999 t or
            the index of a level, real-valued).
        fourier_log: take the logarithm of t; off for labels that are logarithms already.
        fourier_scale: standard deviation of the Fourier frequencies.
        num_classes: number of classes, or None; the null label is ``num_classes``.
        init_scale: variance scale of the last layer of each residual branch and of the output.
        centered: x lies in [-1, 1]; else in [0, 1], and the network maps it to 2 x - 1.
        scale_by_sigma: divide the output by sigma: t itself ("fourier"), or level number t of
            ``sigma_levels`` ("positional").
        sigma_levels: (sigma_min, sigma_max, count) of the geometric table of a discrete model, of
            which level 0 is sigma_max.
        dtype: type to compute in, such as bfloat16; None promotes input and parameters. The
            output then has x's type.
        remat: recompute residual blocks in the backward pass instead of storing them.
    """

    out_channels: int | None = None
    image_size: int | None = None
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    resblock_type: str = "biggan"
    resamp_with_conv: bool = True
    fir: bool = False
    fir_kernel: Taps = (1, 3, 3, 1)
    skip_rescale: bool = True
    group_size: int = 4
    progressive: str = "none"
    progressive_input: str = "none"
    progressive_combine: str = "sum"
    conditional: bool = True
    embedding_type: str = "positional"
    fourier_log: bool = True
    fourier_scale: float = 16.0
    num_classes: int | None = None
    init_scale: float = 0.0
    centered: bool = True
    scale_by_sigma: bool = False
    sigma_levels: tuple[float, float, int] | None = None
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Image,
        t: Float[Array, " batch"],
        cond: Int[Array, " batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch height width out"]:
        """Output of the network, images of the size of x.

        Args:
            x: images [batch, height, width, channels].
            t: noise-conditioning numbers [batch], as ``embedding_type`` has them.
            cond: labels [batch] in 0 .. num_classes, or None for the null label.
            train: draw dropout.

        Returns:
            Output [batch, height, width, out_channels].

        Raises:
            ValueError: on an image that cannot be halved often enough, an unknown switch, labels
                without ``num_classes``, or ``scale_by_sigma`` where sigma is unknown.
        """
        self._check(x, cond)
        emb = self._embedding(t, cond, x.shape[0])
        h, skips = self._down(x if self.centered else 2 * x - 1, emb, train)
        h = self._block(h.shape[-1], "mid_block_0")(h, emb, train)
        h = self._attention("mid_attn")(h)
        h = self._block(h.shape[-1], "mid_block_1")(h, emb, train)
        h = self._up(h, skips, emb, train, self.out_channels or x.shape[-1])
        if self.scale_by_sigma:
            h = h / self._sigma(t, h.dtype)[:, None, None, None]
        return h if self.dtype is None else h.astype(x.dtype)

    def _embedding(self, t: Array, cond: Array | None, batch: int) -> Array | None:
        """Embedding of noise level and label, or None where the network has neither."""
        emb, width = None, 4 * self.nf
        if self.conditional:
            if self.embedding_type == "fourier":
                value = jnp.log(t) if self.fourier_log else t
                emb = GaussianFourier(self.nf, self.fourier_scale, name="fourier")(value)
            else:
                emb = sinusoidal(t, self.nf)
            emb = dense(width, dtype=self.dtype, name="time_0")(emb)
            emb = dense(width, dtype=self.dtype, name="time_1")(nn.silu(emb))
        if self.num_classes is not None:
            label = LabelEmbed(self.num_classes, width, self.dtype, name="label")(cond, batch)
            emb = label if emb is None else emb + label
        return emb

    def _down(self, x: Image, emb: Array | None, train: bool) -> tuple[Array, list[Array]]:
        """The way down: its end, and the outputs kept for the way up."""
        pyramid = x
        h = conv(self.nf, dtype=self.dtype, name="conv_in")(x)
        skips = [h]
        for level, mult in enumerate(self.ch_mult):
            for i in range(self.num_res_blocks):
                h = self._block(self.nf * mult, f"down_{level}_block_{i}")(h, emb, train)
                if self._attends(x, level):
                    h = self._attention(f"down_{level}_attn_{i}")(h)
                skips.append(h)
            if level == len(self.ch_mult) - 1:
                break
            h = self._resample(h, emb, train, "down", f"down_{level}_resample")
            if self.progressive_input == "input_skip":
                pyramid = resize(pyramid, "down", self.fir, self.fir_kernel)
                name = f"down_{level}_combine"
                h = Combine(self.progressive_combine, self.dtype, name=name)(pyramid, h)
            elif self.progressive_input == "residual":
                name = f"down_{level}_pyramid"
                reduce = Downsample(h.shape[-1], self.fir, self.fir_kernel, self.dtype, name=name)
                h = pyramid = add(reduce(pyramid), h, self.skip_rescale)
            skips.append(h)
        return h, skips

    def _up(
        self, h: Array, skips: list[Array], emb: Array | None, train: bool, channels: int
    ) -> Array:
        """The way up, and the output layers."""
        pyramid = None
        top = skips[0]
        for level in reversed(range(len(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                block = self._block(self.nf * self.ch_mult[level], f"up_{level}_block_{i}")
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), emb, train)
            if self._attends(top, level):
                h = self._attention(f"up_{level}_attn")(h)
            if self.progressive == "output_skip":
                image = self._project(h, channels, f"up_{level}")
                if pyramid is not None:
                    image = resize(pyramid, "up", self.fir, self.fir_kernel) + image
                pyramid = image
            elif self.progressive == "residual" and pyramid is None:
                pyramid = self._project(h, h.shape[-1], f"up_{level}", scale=1.0)
            elif self.progressive == "residual" and pyramid is not None:
                name = f"up_{level}_pyramid"
                enlarge = Upsample(h.shape[-1], self.fir, self.fir_kernel, self.dtype, name=name)
                h = pyramid = add(enlarge(pyramid), h, self.skip_rescale)
            if level > 0:
                h = self._resample(h, emb, train, "up", f"up_{level}_resample")
        if self.progressive == "output_skip" and pyramid is not None:
            return pyramid
        return self._project(h, channels, "out")

    def _block(self, features: int, name: str, direction: str | None = None) -> Any:
        """A residual block; called with (h, emb, train)."""
        block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        return block(
            features,
            kind=self.resblock_type,
            direction=direction,
            fir=self.fir,
            taps=self.fir_kernel,
            skip_rescale=self.skip_rescale,
            group_size=self.group_size,
            dropout=self.dropout,
            init_scale=self.init_scale,
            dtype=self.dtype,
            name=name,
        )

    def _attention(self, name: str) -> AttnBlock:
        return AttnBlock(self.skip_rescale, self.group_size, self.init_scale, self.dtype, name=name)

    def _resample(
        self, h: Array, emb: Array | None, train: bool, direction: str, name: str
    ) -> Array:
        """Between levels: a resizing block, a resampler with convolution, or one without."""
        if self.resblock_type == "biggan":
            return self._block(h.shape[-1], name, direction)(h, emb, train)
        if not self.resamp_with_conv:
            return resize(h, direction, self.fir, self.fir_kernel)
        layer = Downsample if direction == "down" else Upsample
        return layer(h.shape[-1], self.fir, self.fir_kernel, self.dtype, name=name)(h)

    def _project(self, h: Array, channels: int, name: str, scale: float | None = None) -> Array:
        """Norm, silu and a 3x3 convolution to ``channels``."""
        scale = self.init_scale if scale is None else scale
        h = norm(h.shape[-1], self.group_size, dtype=self.dtype, name=f"{name}_norm")(h)
        return conv(channels, scale=scale, dtype=self.dtype, name=f"{name}_conv")(nn.silu(h))

    def _attends(self, x: Array, level: int) -> bool:
        side = max(x.shape[1:3]) if self.image_size is None else self.image_size
        return side // 2**level in self.attn_resolutions

    def _sigma(self, t: Array, dtype: Any) -> Array:
        if self.sigma_levels is None:
            return t.astype(dtype)
        return jnp.asarray(geometric_levels(*self.sigma_levels), dtype)[t.astype(jnp.int32)]

    def _check(self, x: Array, cond: Array | None) -> None:
        check_choice("resblock_type", self.resblock_type, ("ddpm", "biggan"))
        check_choice("embedding_type", self.embedding_type, ("fourier", "positional"))
        check_choice("progressive", self.progressive, ("none", "output_skip", "residual"))
        check_choice(
            "progressive_input", self.progressive_input, ("none", "input_skip", "residual")
        )
        check_choice("progressive_combine", self.progressive_combine, ("sum", "cat"))
        check_label(cond, self.num_classes)
        height, width = x.shape[1:3]
        factor = 2 ** (len(self.ch_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"x: got images of {height}x{width}, expected sides divisible by {factor} for "
                f"{len(self.ch_mult)} levels; pad the images or shorten ch_mult"
            )
        sigma_label = self.embedding_type == "fourier" and self.fourier_log
        if self.scale_by_sigma and not sigma_label and self.sigma_levels is None:
            raise ValueError(
                "sigma_levels: got None with scale_by_sigma=True, but t is not sigma here; give "
                "(sigma_min, sigma_max, count), or scale the output outside the network"
            )
