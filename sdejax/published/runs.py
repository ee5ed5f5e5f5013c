"""The published runs: which network, on which data, with which noise, trained and sampled how.

One row for each network of the authors' checkpoints, as their configuration files state it:

    score SDE        "<SDE>/<file>", such as "ve/cifar10_ncsnpp_continuous"
    NCSN, NCSNv2     "ncsn/<data>", "ncsnv2/<data>"

``sdejax.published.run_config`` makes a config of a row.

What differs from the authors' code, all of it in sampling or in going on with training; scores are
the same:

- NCSNv2 publishes a step size for each data set, and 3 Langevin steps a level for 128 and 256
  pixels; here the size follows the paper's own rule (technique 4), which gives the published ones
  to 4 %, and there are 5. NCSN's Langevin step is the paper's, and begins at the second level; its
  code takes twice the step, and begins with uniform noise at the first.
- Ancestral sampling adds the noise of the posterior (Ho et al. 2020, the smaller of their two
  variances); score SDE's code adds the larger, beta. They differ in the last ten levels of 1000.
- A resumed average has the rate min(decay, (1 + n)/(10 + n)) after n updates: score_sde_pytorch
  counts one more, NCSNv2 and the Flax code take the decay itself. At published steps all are one.
- NCSN's noise in the bins of integers fills [k, k + 1)/256; here it fills the bins around k/255.

Reference: Song et al. 2021 (arXiv:2011.13456), appendices C, G and H, and the ``configs`` of
github.com/yang-song/score_sde_pytorch; Song and Ermon 2019 (arXiv:1907.05600), 2020
(arXiv:2006.09011), and those of github.com/ermongroup/ncsn and github.com/ermongroup/ncsnv2.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from sdejax.nets.presets import PRESETS
from sdejax.nets.published_ncsn import NCSN_PRESETS, NCSNV2_PRESETS


class Run(NamedTuple):
    """A published run.

    Attributes:
        family: a row of ``run_config.FAMILIES``: the noise, and what the network says of it.
        network: a row of ``tables.NETWORKS``.
        options: its keyword arguments.
        image_size: side of the images.
        data: "cifar10", or what a folder of images is of.
        levels: number of noise levels N, of training where it is discrete, else of sampling.
        sigma_max: largest noise level where the family has one; the smallest is 0.01.
        batch_size: images a step.
        steps: of training.
        ema_decay: of the averaged weights.
        learning_rate: Adam's.
        adam_eps: Adam's epsilon, for the published loss.
        warmup_steps: of the learning rate.
        clip_norm: largest norm of the gradient of the published loss; None: not clipped.
        mean_loss: the published loss is the mean over pixels; else half their sum.
        dequantise: trained on integers with uniform noise.
        sampler: a row of ``samplers.catalog.SAMPLERS``.
    """

    family: str
    network: str
    options: Mapping[str, Any]
    image_size: int
    data: str
    sampler: str
    levels: int = 1000
    sigma_max: float = 50.0
    batch_size: int = 128
    steps: int = 1_300_001
    ema_decay: float = 0.999
    learning_rate: float = 2e-4
    adam_eps: float = 1e-8
    warmup_steps: int = 5000
    clip_norm: float | None = 1.0
    mean_loss: bool = False
    dequantise: bool = False


def _score_sde(name: str, family: str, sampler: str, data: str = "cifar10", **changes: Any) -> Run:
    options = PRESETS[name]
    return Run(family, "unet", options, options["image_size"], data, sampler, **changes)


# Whose loss is the mean over pixels, with a slower average.
_MEAN: dict[str, Any] = {"mean_loss": True, "ema_decay": 0.9999}
_DEEP: dict[str, Any] = {"steps": 950_001}
_DDPM_256: dict[str, Any] = {
    **_MEAN, "batch_size": 64, "steps": 2_400_001, "learning_rate": 2e-5
}  # fmt: skip
_VE_256: dict[str, Any] = {"batch_size": 64, "steps": 2_400_001, "levels": 2000}
_VE_1024: dict[str, Any] = {
    "batch_size": 8, "steps": 2_400_001, "levels": 2000, "sigma_max": 1348.0, "ema_decay": 0.9999
}  # fmt: skip
_NCSN: dict[str, Any] = {"warmup_steps": 0, "clip_norm": None}
_V2: dict[str, Any] = {**_NCSN, "learning_rate": 1e-4}
_PC, _EULER = "predictor_corrector", "euler_maruyama"


def _ncsn(kind: str, name: str, size: int, data: str, sampler: str, **changes: Any) -> Run:
    options = {"ncsn": NCSN_PRESETS, "ncsnv2": NCSNV2_PRESETS}[kind][name]
    return Run(kind, kind, options, size, data, sampler, **changes)


_ROWS: dict[str, tuple[str, str, dict[str, Any]]] = {  # family, sampler, changes; on CIFAR-10
    "vp/ddpm/cifar10": ("ddpm", "ancestral", _MEAN),
    "vp/ddpm/cifar10_continuous": ("vp", _EULER, _MEAN),
    "subvp/cifar10_ddpm_continuous": ("sub_vp", _EULER, _MEAN),
    "ve/cifar10_ddpm": ("smld", _PC, {}),
    "vp/cifar10_ddpmpp": ("ddpm", "ancestral", _MEAN),
    "vp/cifar10_ddpmpp_continuous": ("vp", _EULER, _MEAN),
    "vp/cifar10_ddpmpp_deep_continuous": ("vp", _EULER, {**_MEAN, **_DEEP}),
    "subvp/cifar10_ddpmpp_continuous": ("sub_vp", _EULER, _MEAN),
    "subvp/cifar10_ddpmpp_deep_continuous": ("sub_vp", _EULER, {**_MEAN, **_DEEP}),
    "vp/cifar10_ncsnpp": ("ddpm", "reverse_diffusion", _MEAN),
    "vp/cifar10_ncsnpp_continuous": ("vp", _EULER, _MEAN),
    "vp/cifar10_ncsnpp_deep_continuous": ("vp", _EULER, {**_MEAN, **_DEEP}),
    "subvp/cifar10_ncsnpp_continuous": ("sub_vp", _EULER, _MEAN),
    "subvp/cifar10_ncsnpp_deep_continuous": ("sub_vp", _EULER, {**_MEAN, **_DEEP}),
    "ve/cifar10_ncsnpp": ("smld", _PC, {}),
    "ve/cifar10_ncsnpp_continuous": ("ve", _PC, {}),
    "ve/cifar10_ncsnpp_deep_continuous": ("ve", _PC, _DEEP),
}

PUBLISHED: Mapping[str, Run] = {
    **{name: _score_sde(name, fam, draw, **more) for name, (fam, draw, more) in _ROWS.items()},
    "ve/celeba_ncsnpp": _score_sde(
        "ve/celeba_ncsnpp", "smld", f"{_PC}_0.17", "celeba", sigma_max=90.0
    ),
    "vp/ddpm/bedroom": _score_sde("vp/ddpm/bedroom", "ddpm", "ancestral", "bedroom", **_DDPM_256),
    "vp/ddpm/church": _score_sde("vp/ddpm/church", "ddpm", "ancestral", "church", **_DDPM_256),
    "vp/ddpm/celebahq": _score_sde(
        "vp/ddpm/celebahq", "ddpm", "ancestral", "celebahq", **_DDPM_256
    ),
    "ve/bedroom_ncsnpp_continuous": _score_sde(
        "ve/bedroom_ncsnpp_continuous", "ve", f"{_PC}_0.075", "bedroom", sigma_max=378.0, **_VE_256
    ),
    "ve/church_ncsnpp_continuous": _score_sde(
        "ve/church_ncsnpp_continuous", "ve", f"{_PC}_0.075", "church", sigma_max=380.0, **_VE_256
    ),
    "ve/celebahq_256_ncsnpp_continuous": _score_sde(
        "ve/celebahq_256_ncsnpp_continuous", "ve", f"{_PC}_0.075", "celebahq",
        sigma_max=348.0, **_VE_256,
    ),
    "ve/ffhq_256_ncsnpp_continuous": _score_sde(
        "ve/ffhq_256_ncsnpp_continuous", "ve", f"{_PC}_0.075", "ffhq", sigma_max=348.0, **_VE_256
    ),
    "ve/celebahq_ncsnpp_continuous": _score_sde(
        "ve/celebahq_ncsnpp_continuous", "ve", f"{_PC}_0.15", "celebahq", **_VE_1024
    ),
    "ve/ffhq_ncsnpp_continuous": _score_sde(
        "ve/ffhq_ncsnpp_continuous", "ve", f"{_PC}_0.15", "ffhq", mean_loss=True, **_VE_1024
    ),
    **{
        f"ncsn/{name}": _ncsn(
            "ncsn", name, 32, name, "annealed_langevin_100", levels=10, sigma_max=1.0,
            steps=200_001, learning_rate=1e-3, ema_decay=0.0, dequantise=True, **_NCSN,
        )
        for name in ("cifar10", "celeba")
    },
    "ncsnv2/cifar10": _ncsn(
        "ncsnv2", "cifar10", 32, "cifar10", "annealed_langevin", levels=232, steps=300_001, **_V2
    ),
    "ncsnv2/celeba": _ncsn(
        "ncsnv2", "celeba", 64, "celeba", "annealed_langevin",
        levels=500, sigma_max=90.0, steps=210_001, **_V2,
    ),
    "ncsnv2/lsun": _ncsn(
        "ncsnv2", "lsun", 128, "lsun", "annealed_langevin",
        levels=1086, sigma_max=190.0, steps=150_001, **_V2,
    ),
    "ncsnv2/ffhq": _ncsn(
        "ncsnv2", "ffhq", 256, "ffhq", "annealed_langevin",
        levels=2311, sigma_max=348.0, steps=80_001, batch_size=32, adam_eps=1e-3, **_V2,
    ),
}  # fmt: skip


def matching(name: str) -> list[str]:
    """The published runs that a name may mean.

    Args:
        name: a row of ``PUBLISHED``, or its last part, which several rows may share.

    Returns:
        Names of rows, at least one.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
    """
    given = name.rpartition(":")[2]  # as in --config configs/published.py:NAME
    found = [row for row in PUBLISHED if given in (row, row.rpartition("/")[2])]
    if not found:
        nearest = difflib.get_close_matches(
            given.rpartition("/")[2], [row.rpartition("/")[2] for row in PUBLISHED], 1, 0.5
        )
        alike = [row for row in PUBLISHED if row.rpartition("/")[2] in nearest]
        same = [row for row in alike if row.partition("/")[0] == given.partition("/")[0]]
        hint = f"did you mean {' or '.join(same or alike)}? " if nearest else ""
        raise ValueError(f"preset: got {name!r}; {hint}The presets are {', '.join(PUBLISHED)}")
    return found


def named(name: str) -> Run:
    """A published run by its name.

    Args:
        name: a row of ``PUBLISHED``, or its last part where that is clear.

    Returns:
        The run.

    Raises:
        ValueError: for a name that means no run, or several.
    """
    found = matching(name)
    if len(found) > 1:
        raise ValueError(f"preset: got {name!r}, which may be {' or '.join(found)}; say which")
    return PUBLISHED[found[0]]
