"""The published full-size networks, as keyword arguments of `UNet`.

Names are those of the authors' configuration files, "<SDE>/<file>". Each entry is plain data:
``UNet(**PRESETS["ve/cifar10_ncsnpp_continuous"])``, or with some entries replaced.

Reference: Song et al. 2021 (arXiv:2011.13456), appendices G and H;
github.com/yang-song/score_sde_pytorch, ``configs/``.
"""

from __future__ import annotations

from typing import Any

_CIFAR10 = {
    "image_size": 32,
    "out_channels": 3,
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "attn_resolutions": (16,),
    "dropout": 0.1,
}
_DDPM = {"resblock_type": "ddpm", "skip_rescale": False, "group_size": 1, "num_res_blocks": 2}
_DDPMPP = {"fir": False, "progressive_input": "none"}
_NCSNPP = {"fir": True, "progressive_input": "residual"}
_NORMAL, _DEEP = {"num_res_blocks": 4}, {"num_res_blocks": 8}

# labels: 999 t or a level's index; data in [-1, 1]
_VP = {"embedding_type": "positional", "centered": True, "scale_by_sigma": False}
# labels: sigma; data in [0, 1]
_VE = {
    "embedding_type": "fourier",
    "fourier_scale": 16.0,
    "centered": False,
    "scale_by_sigma": True,
}
# labels: a level's index, 0 the largest sigma; data in [0, 1]
_SMLD = {
    "embedding_type": "positional",
    "centered": False,
    "scale_by_sigma": True,
    "sigma_levels": (0.01, 50.0, 1000),
}

_DDPM_256 = {
    **_DDPM,
    **_VP,
    "image_size": 256,
    "out_channels": 3,
    "nf": 128,
    "ch_mult": (1, 1, 2, 2, 4, 4),
    "attn_resolutions": (16,),
    "dropout": 0.0,
}
_NCSNPP_256 = {
    **_VE,
    "image_size": 256,
    "out_channels": 3,
    "nf": 128,
    "ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "dropout": 0.0,
    "fir": True,
    "progressive_input": "input_skip",
    "progressive": "output_skip",
}
_NCSNPP_1024 = {
    **_NCSNPP_256,
    "image_size": 1024,
    "nf": 16,
    "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
    "num_res_blocks": 1,
}

PRESETS: dict[str, dict[str, Any]] = {
    "vp/ddpm/cifar10": {**_CIFAR10, **_DDPM, **_VP},
    "vp/ddpm/cifar10_continuous": {**_CIFAR10, **_DDPM, **_VP},
    "subvp/cifar10_ddpm_continuous": {**_CIFAR10, **_DDPM, **_VP},
    "ve/cifar10_ddpm": {**_CIFAR10, **_DDPM, **_SMLD},
    "vp/cifar10_ddpmpp": {**_CIFAR10, **_DDPMPP, **_NORMAL, **_VP},
    "vp/cifar10_ddpmpp_continuous": {**_CIFAR10, **_DDPMPP, **_NORMAL, **_VP},
    "vp/cifar10_ddpmpp_deep_continuous": {**_CIFAR10, **_DDPMPP, **_DEEP, **_VP},
    "subvp/cifar10_ddpmpp_continuous": {**_CIFAR10, **_DDPMPP, **_NORMAL, **_VP},
    "subvp/cifar10_ddpmpp_deep_continuous": {**_CIFAR10, **_DDPMPP, **_DEEP, **_VP},
    "vp/cifar10_ncsnpp": {**_CIFAR10, **_NCSNPP, **_NORMAL, **_VP},
    "vp/cifar10_ncsnpp_continuous": {**_CIFAR10, **_NCSNPP, **_NORMAL, **_VP},
    "vp/cifar10_ncsnpp_deep_continuous": {**_CIFAR10, **_NCSNPP, **_DEEP, **_VP},
    "subvp/cifar10_ncsnpp_continuous": {**_CIFAR10, **_NCSNPP, **_NORMAL, **_VP},
    "subvp/cifar10_ncsnpp_deep_continuous": {**_CIFAR10, **_NCSNPP, **_DEEP, **_VP},
    "ve/cifar10_ncsnpp": {**_CIFAR10, **_NCSNPP, **_NORMAL, **_SMLD},
    "ve/cifar10_ncsnpp_continuous": {**_CIFAR10, **_NCSNPP, **_NORMAL, **_VE},
    "ve/cifar10_ncsnpp_deep_continuous": {**_CIFAR10, **_NCSNPP, **_DEEP, **_VE},
    "ve/celeba_ncsnpp": {
        **_CIFAR10,
        **_NCSNPP,
        **_NORMAL,
        **_SMLD,
        "image_size": 64,
        "sigma_levels": (0.01, 90.0, 1000),
    },
    "vp/ddpm/bedroom": _DDPM_256,
    "vp/ddpm/church": _DDPM_256,
    "vp/ddpm/celebahq": _DDPM_256,
    "ve/bedroom_ncsnpp_continuous": _NCSNPP_256,
    "ve/church_ncsnpp_continuous": _NCSNPP_256,
    "ve/celebahq_256_ncsnpp_continuous": _NCSNPP_256,
    "ve/ffhq_256_ncsnpp_continuous": _NCSNPP_256,
    "ve/celebahq_ncsnpp_continuous": _NCSNPP_1024,
    "ve/ffhq_ncsnpp_continuous": _NCSNPP_1024,
}
