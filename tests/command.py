"""``sdejax train`` on the tiny config, and compiling for it once, for the tests of the commands."""

from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sdejax.cli import main
from sdejax.train.catalog import all_steps

CONFIG = str(Path(__file__).with_name("tiny_config.py"))


def train(workdir, *more, config=CONFIG):
    main(["train", "--config", config, "--workdir", str(workdir), *more])


def steps_of(workdir):
    return all_steps(workdir / "checkpoints")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs are compiled once for all the runs of this file, its processes included."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
