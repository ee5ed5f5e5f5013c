"""The networks of the speed benchmark in flax, batch first: ``module(x, t, cond, train=...)``."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from sdejax.nets.unet import UNet


def fourier(t, features: int):
    """[sin, cos] of ``features / 2`` geometric frequencies, [batch, features]."""
    phase = t[:, None] * jnp.geomspace(1.0, 100.0, features // 2)
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class MLPS(nn.Module):
    """MLP-S."""

    @nn.compact
    def __call__(self, x, t, cond=None, *, train=False):
        """Output of the shape of x."""
        h = jnp.concatenate([x, fourier(t, 64)], axis=-1)
        for _ in range(4):
            h = nn.silu(nn.Dense(256)(h))
        return nn.Dense(x.shape[-1])(h)


class CNNS(nn.Module):
    """CNN-S; the shared embedding 64-128-64 of the noise level is added in every block."""

    @nn.compact
    def __call__(self, x, t, cond=None, *, train=False):
        """Output of the shape of x."""
        emb = nn.Dense(64)(nn.silu(nn.Dense(128)(fourier(t, 64))))
        h = nn.Conv(64, (3, 3))(x)
        for _ in range(3):
            u = nn.Conv(64, (3, 3))(nn.silu(nn.GroupNorm(8)(h)))
            u = nn.silu(nn.GroupNorm(8)(u + emb[:, None, None, :]))
            h = h + nn.Conv(64, (3, 3))(u)
        return nn.Conv(x.shape[-1], (3, 3))(nn.silu(nn.GroupNorm(8)(h)))


NETWORKS = {
    "MLP-S": MLPS,
    "CNN-S": CNNS,
    # The library's own, of the same widths, levels and convolutions; it differs from diffusers' in
    # groups of 8 channels instead of 8 groups, one attention head instead of four, one attention
    # instead of two on the way up, and the side that is padded before a convolution of stride 2.
    "UNet-S": lambda: UNet(
        nf=32,
        ch_mult=(1, 2, 2),
        num_res_blocks=1,
        attn_resolutions=(16,),
        resblock_type="ddpm",
        fir=False,
        skip_rescale=False,
        progressive="none",
        progressive_input="none",
        group_size=8,
        embedding_type="positional",
        init_scale=1.0,
        dropout=0.0,
        centered=True,
        scale_by_sigma=False,
    ),
}
