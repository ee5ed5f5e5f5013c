"""Config files and overrides from the command line."""

import json

import pytest
from command import CONFIG

from sdejax.cli import read_config


def test_overrides_reach_the_config():
    config = read_config(
        f"{CONFIG}:digits",
        ["--config.network.dtype=bfloat16", "--config.network.hidden=(8, 4)", "--config.seed=7",
         "--config.conditional=False", "--config.optimizer.learning_rate=1e-3"],
    ).to_dict()  # fmt: skip
    assert config["network"]["dtype"] == "bfloat16"  # None until now
    assert tuple(config["network"]["hidden"]) == (8, 4)
    assert (config["seed"], config["conditional"]) == (7, False)
    assert config["optimizer"]["learning_rate"] == 1e-3
    assert config["network"]["num_classes"] is None  # None where it is left alone


def test_of_a_key_given_twice_the_last_word_counts():
    twice = ["--config.network.hidden=(8, 4)", "--config.network.hidden=(2,)", "--config.seed=1"]
    assert read_config(str(CONFIG), twice).network.hidden == (2,)


def test_options_of_the_source_may_be_any_and_another_source_starts_without():
    own = ["--config.data.options.n=100", "--config.data.options.toy=rings"]
    options = read_config(str(CONFIG), own).to_dict()["data"]["options"]
    assert (options["n"], options["toy"]) == (100, "rings")
    other = ["--config.data.source=folder", "--config.data.options.size=32"]
    assert read_config(str(CONFIG), other).to_dict()["data"]["options"] == {"size": 32}


def test_the_config_of_a_workdir_is_read_back(tmp_path):
    """As a run left it: lists are tuples again, None may be given a value, new keys are added."""
    plain, path = read_config(str(CONFIG), []).to_dict(), tmp_path / "config.json"
    path.write_text(json.dumps(plain))
    assert read_config(str(path), []).to_dict() == plain
    again = read_config(str(path), ["--config.network.hidden=(8,)", "--config.network.dtype=bfl"])
    assert (again.network.hidden, again.network.dtype) == ((8,), "bfl")
    old = {**plain, "data": {k: v for k, v in plain["data"].items() if k != "centered"}}
    path.write_text(json.dumps({k: v for k, v in old.items() if k != "energy"}))
    assert read_config(str(path), []).to_dict() == plain


@pytest.mark.parametrize("content", ["[1]", "{}", "nonsense", '{"seed": 1}'])
def test_a_json_file_that_is_no_config_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        read_config(str(path), [])
