"""The benchmark scripts, but for what needs torch: they start, and measure what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import processes, truth

ROOT = Path(__file__).parents[1]


def command(*words):
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def problems(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import problems

    return problems


@pytest.mark.parametrize("script", ["accuracy", "adjoints", "likelihood", "scaling", "speed"])
def test_help(script):
    assert f"benchmarks.{script}" in command(f"benchmarks.{script}", "--help")


def test_accuracy_of_two_points(tmp_path):
    command(
        *("benchmarks.accuracy", "--quick", "--no-peers", "--points", "2", "--only", "ddim"),
        *("--out", str(tmp_path)),
    )
    data = json.loads((tmp_path / "accuracy.json").read_text())["data"]
    assert data["budgets"] == [10, 20]
    at_10, at_20 = data["records"]["G2"]["A"]["sdejax ddim"]["rms"]
    assert 0 < at_20 < at_10 < 1
    assert data["floors"]["G2"]["rms"] < 1e-3
    assert "| ddim |" in (tmp_path / "accuracy.md").read_text()
    assert (tmp_path / "accuracy.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "mixture"),
    [("G2", truth.problems.g2), ("S2", truth.problems.s2), ("D16", truth.problems.d16)],
)
def test_problems_are_those_of_the_library(problems, name, mixture):
    problem, sde = problems.PROBLEMS[name](), processes.edm()
    x = 0.5 * problems.noise(problem, 3)
    dist = mixture()
    estimate = jax.jit(jax.vmap(lambda x, s: truth.estimate(dist, sde, x, s).x0, (0, None)))
    for sigma in (0.05, 1.0):
        mine = problems.denoise(problem, x, sigma)
        theirs = estimate(jnp.asarray(x, jnp.float32), sigma)
        np.testing.assert_allclose(theirs, mine, atol=1e-4)


def test_reference_is_the_flow_of_a_gaussian(problems):
    basis = np.linalg.qr(np.random.RandomState(0).randn(3, 3))[0]
    stds = np.array([[0.1, 0.5, 2.0]])
    made = problems.Problem("one", np.ones(1), np.array([[0.3, -1.0, 2.0]]), stds, basis[None])
    z = problems.noise(made, 5)
    # Along each axis of the covariance x - m scales as sqrt(s^2 + sigma^2).
    shrunk = (80.0 * z - made.means) @ basis * (stds / np.sqrt(stds**2 + 80.0**2))
    exact = made.means + shrunk @ basis.T
    np.testing.assert_allclose(problems.reference(made, z, 80.0), exact, atol=1e-8)


@pytest.fixture
def densities(problems):
    from benchmarks import densities

    return densities


def test_likelihood_of_two_points(tmp_path):
    command(
        *("benchmarks.likelihood", "--parts", "accuracy", "errors", "--no-peers", "--points", "2"),
        *("--problems", "G2", "--only", "flow, Tsit5, angle", "--examples", "4"),
        *("--dimension", "16", "--out", str(tmp_path)),
    )
    data = json.loads((tmp_path / "likelihood.json").read_text())["data"]
    rows = data["accuracy"]["rows"]
    assert 1e-10 < rows[-1]["median"] < 1e-6 < rows[0]["median"] < 0.1
    assert rows[0]["evaluations"] < rows[-1]["evaluations"] < 300
    assert 0.1 < data["errors"]["rows"][0]["ratio"] < 10
    assert "| sdejax: flow, Tsit5, angle |" in (tmp_path / "likelihood.md").read_text()
    assert (tmp_path / "likelihood.png").stat().st_size > 0


def test_density_of_the_model_of_a_gaussian(problems, densities):
    """The prior of sigma = 3 pulled back through the map of each axis from sigma = 0.1."""
    basis = np.linalg.qr(np.random.RandomState(0).randn(3, 3))[0]
    stds, mean = np.array([0.1, 0.5, 2.0]), np.array([0.3, -1.0, 2.0])
    made = problems.Problem("one", np.ones(1), mean[None], stds[None], basis[None])
    x = densities.draw(made, 5, seed=1)
    grown = np.sqrt((stds**2 + 3.0**2) / (stds**2 + 0.1**2))
    latent = mean + (x - mean) @ basis * grown @ basis.T
    exact = np.sum(-0.5 * (latent / 3.0) ** 2 - 0.5 * np.log(2 * np.pi * 9.0), 1)
    exact += np.sum(np.log(grown))
    found = densities.model_log_density(made, x, (1.0, 0.1), (1.0, 3.0))
    np.testing.assert_allclose(found, exact, atol=1e-9)
    # The state at alpha = 1/2 is the same up to its scale: only log-volume changes.
    half = densities.model_log_density(made, 0.5 * x, (0.5, 0.05), (0.5, 1.5))
    np.testing.assert_allclose(half, exact + 3 * np.log(2.0), atol=1e-9)
