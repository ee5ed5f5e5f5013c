"""``sdejax likelihood`` as users type it, run in this process."""

import json
import re

import numpy as np
import pytest
from command import fails

from sdejax.build import build_data
from sdejax.cli import main
from sdejax.evaluate import save_rows
from sdejax.evaluator import Row
from sdejax.trained import load


def told(capsys, *arguments):
    capsys.readouterr()
    main(["likelihood", *map(str, arguments)])
    return capsys.readouterr().out


def rows(path):
    with np.load(path, allow_pickle=False) as file:
        return Row(*(file[name] for name in Row._fields))


def test_the_mean_and_its_interval_are_those_of_the_rows(points, tmp_path, capsys):
    """Of real data, by the exact trace: the same numbers as from Python."""
    out = tmp_path / "rows.npz"
    text = told(capsys, "--workdir", points, "--num=6", "--trace=exact", "--out", out)
    found = rows(out)
    assert found.log_p.shape == (6,)
    mean, half = map(float, re.search(r"(\S+) \+- (\S+) bits/dim", text).groups())
    assert mean == pytest.approx(found.bits_per_dim.mean(), abs=1e-4)
    assert half == pytest.approx(1.96 * found.bits_per_dim.std(ddof=1) / np.sqrt(6), abs=1e-4)
    assert "in their own units" in text
    assert "standard error" not in text
    model = load(points)
    stored = np.load(out, allow_pickle=False)
    assert str(stored["about"]).count("exact") == 1

    x = build_data(model.config)[1].x[np.arange(6)]
    again = model.log_likelihood(x, trace="exact")
    np.testing.assert_allclose(again.log_p, found.log_p, atol=1e-3)


def test_an_interrupted_evaluation_goes_on(points, tmp_path, capsys):
    out = tmp_path / "rows.npz"
    command = ("--workdir", points, "--trace=exact", "--chunk=8", "--out", out)
    told(capsys, *command, "--num=16")
    with np.load(out, allow_pickle=False) as file:
        about = file["about"]
    whole = rows(out)
    marked = Row(*(leaf[:8].copy() for leaf in whole))
    marked.log_p[:] = -123.0  # what is found is not evaluated again
    save_rows(out, marked, json.loads(str(about)))
    told(capsys, *command, "--num=16")
    found = rows(out)
    assert np.all(found.log_p[:8] == -123.0)
    np.testing.assert_allclose(found.log_p[8:], whole.log_p[8:], atol=1e-3)


def test_integers_by_every_method_with_and_without_labels(digits, tmp_path, capsys):
    for method, extra in {
        "ode": ("--probes=2", "--tol=1e-2"),
        "elbo": ("--draws=4",),
        "chain": ("--levels=8",),
    }.items():
        command = ("--workdir", digits, "--num=8", "--method", method, *extra)
        text = told(capsys, *command, "--out", tmp_path / f"{method}.npz")
        assert "bits/dim (of integers, an upper bound; mean of 8 examples" in text
        assert ("uniform dequantisation" in text) == (method != "chain")
        told(capsys, *command, "--no-labels", "--out", tmp_path / f"{method}_none.npz")
        with_labels, without = (rows(tmp_path / f"{method}{end}.npz") for end in ("", "_none"))
        assert np.all(np.isfinite(with_labels.log_p))
        assert with_labels.log_p.shape == without.log_p.shape == (8,)


def test_misuse_is_named(points, digits, tmp_path, capsys):
    command = ["likelihood", "--workdir", points, "--out", tmp_path / "x.npz", "--num=2"]
    for extra, message in {
        ("--probes=0",): "probes=0",
        ("--tol=0",): "tolerance: got 0",
        ("--samples=2", "--trace=exact"): "real numbers",
        ("--samples=2",): "is no bound",
        ("--dequantiser=nowhere.npz",): "nowhere.npz",
        ("--t-min=5000",): "t_min: got 5000",
        ("--chunk=0",): "--chunk: got 0",
        ("--out=x.png",): "ends in .npz",
        ("--num=0",): "num: got 0",
        ("--num=1000000",): "the examples there are",
    }.items():
        assert message in fails(capsys, *command, *extra), extra
    command[2] = digits
    assert "nowhere.npz" in fails(capsys, *command, "--dequantiser=nowhere.npz")
    done = tmp_path / "done.npz"
    few = ("--method=elbo", "--draws=2", "--num=2", "--out", done)
    told(capsys, "--workdir", digits, *few)
    error = fails(capsys, "likelihood", "--workdir", digits, *few, "--seed=1")
    assert "holds another evaluation (seed: 0 there, 1 now)" in error
