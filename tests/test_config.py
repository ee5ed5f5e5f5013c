import json

import jax
import numpy as np
import pytest
from tiny_config import get_config

from sdejax.build import build_loss, build_model, init_params
from sdejax.config import ADDED, ADDED_TO_DATA, change, completed, default_config, keys_of
from sdejax.losses import make_loss
from sdejax.tables import component
from sdejax.times import log_normal_sigma, objective
from sdejax.train.integrity import CheckpointError, check_config
from sdejax.weights import edm


def earlier():
    """A config as an earlier version wrote it."""
    plain = json.loads(json.dumps(get_config().to_dict()))
    for key in ADDED:
        del plain[key]
    for key in ADDED_TO_DATA:
        del plain["data"][key]
    return plain


def test_a_run_of_an_earlier_version_goes_on():
    """Its config means what the default does today, and differs where a new key is used."""
    now = get_config().to_dict()
    check_config(completed(earlier()), completed(now))
    now["objective"] = component("objective", "sliced")
    with pytest.raises(CheckpointError, match=r"objective.name: 'denoising' -> 'sliced'"):
        check_config(completed(earlier()), completed(now))


def test_a_config_of_an_earlier_version_builds_the_denoising_loss():
    """As does the default: bit for bit what ``make_loss`` gives."""
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    batch, found = {"x": x, "position": np.arange(64)}, []
    for plain in (earlier(), get_config().to_dict()):
        parts = build_model(plain, (2,), None)
        params = init_params(jax.random.key(0), parts)
        found.append(build_loss(plain, parts)(params, jax.random.key(1), batch)[0])
    sampling = objective(log_normal_sigma(parts.sde))
    loss = make_loss(parts.model, parts.sde, 64, times=sampling, weight=edm())
    for losses in found:
        np.testing.assert_array_equal(losses, loss(params, jax.random.key(1), batch)[0])


def test_what_was_added_are_keys_of_the_default_config():
    plain = default_config().to_dict()
    assert {key: plain[key] for key in ADDED} == ADDED
    assert {key: plain["data"][key] for key in ADDED_TO_DATA} == ADDED_TO_DATA
    assert completed(plain) == plain


def test_two_default_configs_share_nothing():
    one, other = default_config(), default_config()
    change(one, {"objective.name": "sliced", "energy": "inner"})
    assert (other.objective.name, other.energy) == ("denoising", "none")
    assert ADDED["objective"] == {"name": "denoising"}
    assert {"objective.name", "energy"} <= set(keys_of(one))
