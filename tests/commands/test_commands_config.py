"""Config files and overrides from the command line."""

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


def test_options_of_the_source_may_be_any_and_another_source_starts_without():
    own = ["--config.data.options.n=100", "--config.data.options.toy=rings"]
    options = read_config(str(CONFIG), own).to_dict()["data"]["options"]
    assert (options["n"], options["toy"]) == (100, "rings")
    other = ["--config.data.source=folder", "--config.data.options.size=32"]
    assert read_config(str(CONFIG), other).to_dict()["data"]["options"] == {"size": 32}
