"""Curves hold the logged values; a file cut off by a killed run is still read."""

import json

import numpy as np
import pytest

from sdejax.viz import plot_curves, read_records

RECORDS = [{"step": 10 * i, "loss": 2.0 + (-1) ** i} for i in range(8)] + [{"step": 80, "fid": 3.0}]


def test_read_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record) for record in RECORDS]
    path.write_text("\n".join(lines) + "\n")
    assert read_records(path) == RECORDS
    path.write_text("\n".join(lines) + '\n{"step": 90, "lo')
    assert read_records(path) == RECORDS
    path.write_text(lines[0] + "\nnonsense\n" + lines[1])
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: .*nonsense"):
        read_records(path)


def test_raw_curve():
    (axes,) = plot_curves(RECORDS).axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), 10 * np.arange(8))
    np.testing.assert_array_equal(line.get_ydata(), [3, 1] * 4)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step", "loss", "log")


def test_smoothed_curve_over_the_raw_one():
    raw, mean = plot_curves(RECORDS, smooth=4).axes[0].lines
    np.testing.assert_array_equal(raw.get_ydata(), [3, 1] * 4)
    np.testing.assert_allclose(mean.get_ydata(), 2)  # means of 3 1 3 1
    np.testing.assert_array_equal(mean.get_xdata(), [10, 20, 30, 40, 50])
    assert raw.get_alpha() < 1


def test_several_curves_have_a_legend():
    (axes,) = plot_curves(RECORDS, ("loss", "fid"), log=False, smooth=99).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "fid"]
    assert axes.get_yscale() == "linear"


def test_unknown_metric_is_named_beside_the_known():
    with pytest.raises(ValueError, match=r"'accuracy'; there are \['fid', 'loss'\]"):
        plot_curves(RECORDS, ("accuracy",))
