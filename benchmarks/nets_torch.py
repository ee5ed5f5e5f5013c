"""The networks of the speed benchmark in torch: called as ``module(x, t)``, channels first."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def fourier(t: torch.Tensor, features: int) -> torch.Tensor:
    """[sin, cos] of ``features / 2`` geometric frequencies, [batch, features]."""
    rates = torch.logspace(0.0, 2.0, features // 2)
    phase = t[:, None] * rates
    return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)


class MLPS(nn.Module):
    """MLP-S."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16 + 64, 256, 256, 256, 256]
        layers = [(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*(x for pair in layers for x in pair), nn.Linear(256, 16))

    def forward(self, x, t):
        """Output of the shape of x."""
        return self.layers(torch.cat([x, fourier(t, 64)], dim=-1))


class Block(nn.Module):
    """A residual block of CNN-S."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1))
        self.second = nn.Sequential(nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1))

    def forward(self, h, emb):
        """[batch, 64, height, width]."""
        return h + self.second(self.first(h) + emb[:, :, None, None])


class CNNS(nn.Module):
    """CNN-S."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64))
        self.enter = nn.Conv2d(3, 64, 3, padding=1)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.leave = nn.Sequential(nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1))

    def forward(self, x, t):
        """Output of the shape of x."""
        emb, h = self.embed(fourier(t, 64)), self.enter(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.leave(h)


class UNetS(nn.Module):
    """UNet-S, diffusers' own."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.net = UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=16,
        )

    def forward(self, x, t):
        """Output of the shape of x."""
        return self.net(x, t, return_dict=False)[0]


NETWORKS = {"MLP-S": MLPS, "CNN-S": CNNS, "UNet-S": UNetS}
