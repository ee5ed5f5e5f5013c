"""The table of published runs: complete, consistent with the networks, found by name."""

import pytest

from sdejax.nets.presets import PRESETS
from sdejax.nets.published_ncsn import NCSN_PRESETS, NCSNV2_PRESETS
from sdejax.published.run_config import FAMILIES
from sdejax.published.runs import PUBLISHED, matching, named
from sdejax.samplers.catalog import SAMPLERS
from sdejax.tables import NETWORKS


def test_every_published_network_has_a_run():
    ncsn = {f"ncsn/{name}" for name in NCSN_PRESETS} | {f"ncsnv2/{name}" for name in NCSNV2_PRESETS}
    assert set(PUBLISHED) == set(PRESETS) | ncsn
    for run in PUBLISHED.values():
        NETWORKS[run.network](**run.options)
        assert run.family in FAMILIES
        assert run.sampler in SAMPLERS
        assert run.options.get("image_size", run.image_size) == run.image_size


@pytest.mark.parametrize("name", PUBLISHED)
def test_noise_and_network_speak_of_the_same(name):
    """Whether the data are centred, and the levels that a network divides by, are said twice."""
    run = PUBLISHED[name]
    kind = name.partition("/")[0]
    family = {"vp": ("vp", "ddpm"), "subvp": ("sub_vp",), "ve": ("ve", "smld")}
    assert run.family in family.get(kind, (kind,))
    assert ("continuous" in name) == (run.family in ("vp", "sub_vp", "ve"))
    centered = kind in ("vp", "subvp")
    assert run.options["centered"] == FAMILIES[run.family](run)["centered"] == centered
    if run.options.get("sigma_levels"):
        assert run.options["sigma_levels"] == (0.01, run.sigma_max, run.levels)
    if "num_levels" in run.options:
        assert run.options["num_levels"] == run.levels


def test_a_run_is_found_by_its_last_part():
    assert named("ffhq_ncsnpp_continuous") is PUBLISHED["ve/ffhq_ncsnpp_continuous"]
    assert matching("cifar10_ncsnpp_continuous") == [
        f"{sde}/cifar10_ncsnpp_continuous" for sde in ("vp", "subvp", "ve")
    ]
    assert matching("ve/cifar10_ncsnpp_continuous") == ["ve/cifar10_ncsnpp_continuous"]
    with pytest.raises(ValueError, match=r"may be vp/cifar10_ncsnpp_continuous or subvp/.* say w"):
        named("cifar10_ncsnpp_continuous")
    assert matching("configs/published.py:vp/cifar10_ddpmpp") == ["vp/cifar10_ddpmpp"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vp/cifar_ddpmpp", "did you mean vp/cifar10_ddpmpp. The presets are vp/ddpm/cifar10, "),
        ("cifar_ddpmpp_continous", "mean vp/cifar10_ddpmpp_continuous or subvp/cifar10_ddpmpp_c"),
        ("zzzzzz", "got 'zzzzzz'; The presets are"),
    ],
)
def test_a_misspelt_run_gets_all_that_it_may_have_meant(name, hint):
    with pytest.raises(ValueError, match=hint):
        named(name)
