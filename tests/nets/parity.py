"""Loader of the forward passes of the published networks (see fixtures/README.md)."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = (
    "ddpm_vp_continuous",
    "ddpmpp_vp_continuous",
    "ddpmpp_subvp_deep_continuous",
    "ncsnpp_vp_continuous",
    "ncsnpp_ve_deep_continuous",
    "ncsnpp_ve_discrete",
    "ncsnpp_ve_skip",
)


def load(name: str) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Keyword arguments of `UNet`, the state_dict, and the other fields with images in NHWC."""
    published, weights, fields = stored(name)
    return unet_kwargs(published), weights, fields


def stored(name: str) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The published configuration, the state_dict, and the other fields with images in NHWC."""
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
        fields = {key: file[key] for key in file.files}
    published = json.loads(str(fields["@config"]))
    images = {key: v.transpose(0, 2, 3, 1) for key, v in fields.items() if v.ndim == 4}
    return published, _weights(fields), {**fields, **images}


def unet_kwargs(c: dict) -> dict:
    """The published configuration in our words."""
    same = ("image_size", "nf", "num_res_blocks", "dropout", "centered", "scale_by_sigma")
    kwargs = {key: c[key] for key in same}
    kwargs |= {key: tuple(c[key]) for key in ("ch_mult", "attn_resolutions")}
    kwargs["out_channels"] = c["num_channels"]
    if c["name"] == "ddpm":  # its embedding_type is without effect
        kwargs |= {"resblock_type": "ddpm", "skip_rescale": False, "group_size": 1}
    else:
        switches = ("resblock_type", "fir", "skip_rescale", "embedding_type", "init_scale")
        pyramids = ("progressive", "progressive_input", "progressive_combine")
        kwargs |= {key: c[key] for key in switches + pyramids}
        kwargs["fir_kernel"] = tuple(c["fir_kernel"])
    if c["scale_by_sigma"] and not c["continuous"]:
        kwargs["sigma_levels"] = (float(c["sigma_min"]), float(c["sigma_max"]), c["num_scales"])
    return kwargs


def _weights(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state_dict: bfloat16 bits widened to float32, or made by the rule."""
    if "@seed" in fields:
        return _by_rule(fields)
    exponent, fraction = (
        fields["@exponent"].astype(np.uint32),
        fields["@fraction"].astype(np.uint32),
    )
    flat = (((fraction & 128) << 8 | exponent << 7 | fraction & 127) << 16).view(np.float32)
    shapes = json.loads(str(fields["@shapes"]))
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(flat, ends[:-1])
    weights = {
        str(name): part.reshape(shape)
        for name, part, shape in zip(fields["@names"], parts, shapes, strict=True)
    }
    return {**{key: fields[key] for key in ("sigmas",) if key in fields}, **weights}


def _by_rule(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    seed, norms = int(fields["@seed"]), set(fields["@group_norm_weights"])
    shapes = json.loads(str(fields["@state_shapes"]))
    weights = {}
    for name, shape in zip(map(str, fields["@state_names"]), shapes, strict=True):
        if name == "sigmas":
            continue
        n = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        value = 1 + 0.1 * n if name in norms else 16 * n if name.endswith(".0.W") else 0.02 * n
        weights[name] = value.astype(np.float32)
    for name, first in json.loads(str(fields["@probe"])).items():
        np.testing.assert_array_equal(weights[name].ravel()[:3], np.float32(first))
    return weights
