"""Configs of published runs: what the authors' configuration files state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.build import (
    build_loss,
    build_model,
    build_optimizer,
    build_schedule,
    init_params,
)
from sdejax.data.scaling import integers, uncentred
from sdejax.nets.mlp import MLP
from sdejax.published.run_config import event_shape, loss_scale, published_config, sized
from sdejax.published.runs import PUBLISHED, named
from sdejax.results import generator_of
from sdejax.saved_meta import check_values

# As stated there: batch, steps, Adam's rate, average, first and last noise of the data in [0, 1] or
# betas, data centred, sampler, its signal-to-noise ratio or Langevin steps, its steps.
STATED = {
    "ve/cifar10_ncsnpp_continuous": (128, 1300001, 2e-4, 0.999, 50, False, ("pc", 0.16), 1000),
    "ve/cifar10_ncsnpp_deep_continuous": (128, 950001, 2e-4, 0.999, 50, False, ("pc", 0.16), 1000),
    "ve/cifar10_ddpm": (128, 1300001, 2e-4, 0.999, 50, False, ("pc", 0.16), 999),
    "ve/celeba_ncsnpp": (128, 1300001, 2e-4, 0.999, 90, False, ("pc", 0.17), 999),
    "ve/bedroom_ncsnpp_continuous": (64, 2400001, 2e-4, 0.999, 378, False, ("pc", 0.075), 2000),
    "ve/church_ncsnpp_continuous": (64, 2400001, 2e-4, 0.999, 380, False, ("pc", 0.075), 2000),
    "ve/ffhq_256_ncsnpp_continuous": (64, 2400001, 2e-4, 0.999, 348, False, ("pc", 0.075), 2000),
    "ve/celebahq_256_ncsnpp_continuous":
        (64, 2400001, 2e-4, 0.999, 348, False, ("pc", 0.075), 2000),
    "ve/ffhq_ncsnpp_continuous": (8, 2400001, 2e-4, 0.9999, 1348, False, ("pc", 0.15), 2000),
    "ve/celebahq_ncsnpp_continuous": (8, 2400001, 2e-4, 0.9999, 1348, False, ("pc", 0.15), 2000),
    "vp/cifar10_ddpmpp_continuous": (128, 1300001, 2e-4, 0.9999, None, True, ("em", None), 1000),
    "vp/cifar10_ddpmpp": (128, 1300001, 2e-4, 0.9999, None, True, ("ancestral", None), 999),
    "vp/cifar10_ncsnpp": (128, 1300001, 2e-4, 0.9999, None, True, ("reverse", None), 999),
    "subvp/cifar10_ddpmpp_deep_continuous":
        (128, 950001, 2e-4, 0.9999, None, True, ("em", None), 1000),
    "vp/ddpm/church": (64, 2400001, 2e-5, 0.9999, None, True, ("ancestral", None), 999),
    "ncsn/cifar10": (128, 200001, 1e-3, 0.0, 1, False, ("ald", 100), 9),
    "ncsnv2/cifar10": (128, 300001, 1e-4, 0.999, 50, False, ("ald", 5), 231),
    "ncsnv2/celeba": (128, 210001, 1e-4, 0.999, 90, False, ("ald", 5), 499),
    "ncsnv2/ffhq": (32, 80001, 1e-4, 0.999, 348, False, ("ald", 5), 2310),
}  # fmt: skip
SAMPLERS = {
    ("pc", 0.16): "predictor_corrector", ("pc", 0.17): "predictor_corrector_0.17",
    ("pc", 0.075): "predictor_corrector_0.075", ("pc", 0.15): "predictor_corrector_0.15",
    ("em", None): "euler_maruyama", ("ancestral", None): "ancestral",
    ("reverse", None): "reverse_diffusion", ("ald", 5): "annealed_langevin",
    ("ald", 100): "annealed_langevin_100",
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_training_and_sampling_are_the_stated_ones(name):
    batch, steps, rate, average, sigma_max, centered, sampler, draws = STATED[name]
    config = published_config(PUBLISHED[name]).to_dict()
    assert config["data"]["batch_size"] == batch
    assert (config["train"]["steps"], config["train"]["ema_decay"]) == (steps, average)
    assert config["optimizer"]["learning_rate"] == rate
    assert (config["data"]["centered"], config["network"]["centered"]) == (centered, centered)
    if sigma_max is not None:
        assert (config["sde"]["sigma_min"], config["sde"]["sigma_max"]) == (0.01, sigma_max)
    assert config["sample"]["sampler"] == SAMPLERS[sampler]
    assert config["sample"]["steps"] == draws


def tiny(name):
    """The config of a run on images of 4 x 4, its parts with a tiny network, and its scaling."""
    run = sized(PUBLISHED[name], 4, 1)
    config = published_config(run)
    config.data.batch_size = 16
    config = config.to_dict()
    parts = build_model(config, event_shape(run), None, network=MLP(hidden=(4,), time_features=4))
    return config, parts, integers(256) if config["data"]["centered"] else uncentred(integers(256))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_config_builds_and_its_sampler_can_start(name):
    config, parts, scaling = tiny(name)
    check_values(config)
    build_optimizer(config)
    build_schedule(config)
    build_loss(config, parts, scaling=scaling)
    generator_of(config, parts, scaling)


ONE_OF_EACH = {run.family: name for name, run in PUBLISHED.items()}


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_the_loss_of_every_family_is_finite(name):
    """An output of zero, as before training: eps itself is left, whose mean square is 1."""
    config, parts, scaling = tiny(name)
    x = np.random.default_rng(0).uniform(0, 1, (16, 4, 4, 1)).astype(np.float32)
    batch = {"x": jnp.asarray(x), "position": jnp.arange(16)}
    params = init_params(jax.random.key(0), parts)
    losses = build_loss(config, parts, scaling=scaling)(params, jax.random.key(1), batch)[0]
    assert np.all(np.isfinite(losses))
    np.testing.assert_allclose(losses.mean(), 1.0, atol=0.5)


@pytest.mark.parametrize(
    ("name", "event", "scale"),
    [
        ("vp/cifar10_ddpmpp_continuous", (32, 32, 3), 1.0),
        ("ve/cifar10_ncsnpp_continuous", (32, 32, 3), 1536.0),
        ("ve/ffhq_ncsnpp_continuous", (1024, 1024, 3), 1.0),  # unlike celebahq_ncsnpp_continuous
        ("ve/celebahq_ncsnpp_continuous", (1024, 1024, 3), 1572864.0),
        ("ncsnv2/celeba", (64, 64, 3), 6144.0),
    ],
)
def test_what_scales_with_the_loss_is_divided_by_its_scale(name, event, scale):
    run = named(name)
    assert event_shape(run) == event
    assert loss_scale(run, event) == scale
    optimizer = published_config(run).optimizer
    assert optimizer.eps == pytest.approx(1e-8 / scale)
    clipped = None if name.startswith("ncsn") else pytest.approx(1.0 / scale)
    assert optimizer.clip_norm == clipped


def test_another_size_changes_network_data_and_scales():
    run = sized(named("ve/church_ncsnpp_continuous"), 16, 1)
    config = published_config(run)
    assert (config.network.image_size, config.network.out_channels) == (16, 1)
    assert config.data.options.size == 16
    assert config.optimizer.clip_norm == pytest.approx(1 / 128)
    assert sized(named("ncsnv2/lsun"), 64).image_size == 64
    assert sized(named("ncsnv2/lsun")) == named("ncsnv2/lsun")
