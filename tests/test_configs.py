"""Every file of configs/: loads, builds at its real size, and its loss is finite."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.build import build_loss, build_model, build_optimizer, build_schedule, init_params
from sdejax.cli import read_config
from sdejax.data.scaling import integers
from sdejax.data.sources import SOURCES
from sdejax.data.toy import TOYS
from sdejax.nets.mlp import MLP
from sdejax.results import generator_of

CONFIGS = Path(__file__).parents[1] / "configs"
# event shape, classes, parameters of the network where they are published
EXPECTED = {
    "published:vp/cifar10_ddpmpp_continuous": ((32, 32, 3), 10, 61_804_419),
    "published:ve/cifar10_ncsnpp_continuous": ((32, 32, 3), 10, 62_758_915),
    "digits": ((8, 8, 1), 10, None),
    "digits_likelihood": ((8, 8, 1), 10, None),
    "fashion_mnist": ((28, 28, 1), 10, None),
    "ncsn_digits": ((8, 8, 1), None, None),
    "ncsnv2_digits": ((8, 8, 1), None, None),
    "toy": ((2,), None, None),
}


FILES = sorted({name.partition(":")[0] for name in EXPECTED})


def plain(name, *overrides):
    file, colon, argument = name.partition(":")
    return read_config(f"{CONFIGS / file}.py{colon}{argument}", list(overrides)).to_dict()


def test_every_config_is_tested():
    assert sorted(path.stem for path in CONFIGS.glob("*.py")) == FILES


@pytest.mark.parametrize("name", EXPECTED)
def test_the_network_builds_at_its_real_size(name):
    event, classes, published = EXPECTED[name]
    config = plain(name)
    parts = build_model(config, event, classes)

    def count(parts):
        tree = jax.eval_shape(lambda key: init_params(key, parts), jax.random.key(0))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    assert published in (None, count(parts))
    assert config["data"]["source"] in SOURCES
    build_optimizer(config)
    build_schedule(config)
    generator_of(config, parts, integers(256))  # the sampler can start from this model


@pytest.mark.parametrize("name", EXPECTED)
def test_the_loss_is_finite_with_a_network_of_any_size(name):
    event, classes, _ = EXPECTED[name]
    config = plain(name, "--config.data.batch_size=128")
    num_classes = classes if config["conditional"] else None
    tiny = MLP(hidden=(4,), time_features=4, num_classes=num_classes)
    parts = build_model(config, event, classes, network=tiny)
    params = init_params(jax.random.key(0), parts)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.choice([-1.0, 1.0], (128, *event)).astype(np.float32))
    batch = {"x": x, "position": jnp.arange(128)}
    if num_classes:
        batch["label"] = jnp.asarray(rng.integers(0, classes, 128))
    losses, _ = jax.jit(build_loss(config, parts, scaling=integers(17)))(
        params, jax.random.key(1), batch
    )
    assert bool(jnp.all(jnp.isfinite(losses)))
    # The output zero predicts the mean of its target: the loss is of order one for every choice.
    assert 0.1 < float(jnp.mean(losses)) < 10


@pytest.mark.parametrize("toy", TOYS)
def test_the_toy_config_takes_the_name_of_a_toy(toy):
    config = read_config(f"{CONFIGS / 'toy.py'}:{toy}", [])
    assert config.data.options.toy == toy


@pytest.mark.parametrize("name", FILES)
def test_the_header_says_how_to_run_it_and_what_to_expect(name):
    header = (CONFIGS / f"{name}.py").read_text().split('"""')[1]
    assert re.search(rf"sdejax train --config configs/{name}\.py(:\S+)? --workdir", header)
    for heading in ("Paper", "Hardware", "Expected", "Obtained"):
        assert f"\n{heading}" in header
