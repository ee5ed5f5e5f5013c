"""The README's library example runs as it stands, and its commands name files that exist."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_library_example_draws_two_moons():
    (code,) = re.findall(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", README, re.S)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    x = np.asarray(names["x"])
    assert x.shape == (500, 2)
    assert jnp.all(names["stats"].result == 0)
    # Real moons lie on two half circles: hardly any sample is far from all real points.
    real = np.asarray(names["two_moons"](names["jax"].random.key(9), 5000))
    distance = np.sqrt(((x[:, None] - real[None]) ** 2).sum(-1)).min(axis=1)
    assert np.mean(distance < 0.3) > 0.95
    noise = np.random.default_rng(0).normal(size=(500, 2))
    far = np.sqrt(((noise[:, None] - real[None]) ** 2).sum(-1)).min(axis=1)
    assert np.mean(far < 0.3) < 0.8  # the test can fail


def test_named_files_exist():
    for name in set(
        re.findall(r"(?<![\w/.-])(?:configs|colab|experiments|tests|sdejax)/[\w./]+\w", README)
    ):
        assert (ROOT / name).exists(), f"README names {name}, which does not exist"
