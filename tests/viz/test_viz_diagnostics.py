"""The pictures hold the numbers, with bars of two standard errors and the ideal beside them."""

import io

import numpy as np
import pytest

from sdejax import viz
from sdejax.diagnostics import Asymmetry, Calibration, Diagnosis, Mean, Residual, Stein

T = np.asarray([0.01, 0.1, 0.5, 0.9])
LEVEL = np.asarray([6.0, 2.0, -2.0, -6.0])


def mean(start, error=0.02):
    return Mean(start + 0.1 * np.arange(4), np.full(4, error))


def calibrated(irreducible=None):
    slope = mean(0.9)._replace(error=np.asarray([5.0, 0.02, 0.02, 0.02]))
    return Calibration(T, LEVEL, mean(0.2), mean(0.5), mean(0.0), slope, irreducible, irreducible)


DIAGNOSIS = Diagnosis(
    calibrated(),
    Asymmetry(T, LEVEL, mean(0.05), mean(0.1), mean(1.0)),
    Residual(T, LEVEL, mean(0.4), mean(0.04)),
    Stein(T, LEVEL, mean(-0.1), mean(0.0, 0.01), mean(0.0), mean(0.0)),
)


def bars(container):
    """Abscissae, values and the ends of the bars."""
    line, _, (lines,) = container.lines
    ends = np.asarray([segment[:, 1] for segment in lines.get_segments()])
    return line.get_xdata(), line.get_ydata(), ends


def check_bars(container, found):
    x, y, ends = bars(container)
    np.testing.assert_array_equal(x, LEVEL)
    np.testing.assert_array_equal(y, found.value)
    spread = 2 * np.stack([-found.error, found.error], axis=1)
    np.testing.assert_allclose(ends, found.value[:, None] + spread)


def test_calibration_beside_its_ideal():
    errors, slope = viz.plot_calibration(calibrated(mean(0.3))).axes
    check_bars(errors.containers[0], mean(0.5))
    check_bars(errors.containers[1], mean(0.3))
    ideal = next(line for line in errors.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(ideal.get_ydata(), 1 - mean(0.2).value)
    check_bars(slope.containers[0], calibrated().slope)
    low, high = slope.get_ylim()
    assert 0.5 < low < 0.8 + 1e-9
    assert 1.2 < high < 1.5  # a slope of error 5 does not set the scale
    (without,) = viz.plot_calibration(calibrated()).axes[0].containers
    check_bars(without, mean(0.5))


def test_one_figure_for_each():
    (axes,) = viz.plot_asymmetry(DIAGNOSIS.asymmetry).axes
    check_bars(axes.containers[0], mean(0.05))
    assert axes.get_ylim()[0] == 0
    (axes,) = viz.plot_stein(DIAGNOSIS.stein).axes
    check_bars(axes.containers[0], mean(-0.1))
    check_bars(axes.containers[1], mean(0.0, 0.01))
    (top,) = axes.child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == ["0.01", "0.1", "0.5", "0.9"]
    assert list(top.get_xticks()) == list(LEVEL)


def test_a_residual_is_the_root_of_its_square():
    """The square is known to +-, and where it may be 0 the bar goes down to 0."""
    scaled = Mean(np.asarray([0.04, 0.01, -0.01, 0.0]), np.full(4, 0.01))
    (axes,) = viz.plot_residual(Residual(T, LEVEL, scaled, scaled)).axes
    _, y, ends = bars(axes.containers[0])
    np.testing.assert_allclose(y, [0.2, 0.1, 0.0, 0.0], atol=1e-12)
    upper, lower = np.sqrt([0.06, 0.03, 0.01, 0.02]), np.sqrt([0.02, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(ends, np.stack([lower, upper], axis=1), atol=1e-12)


def test_four_panels():
    figure = viz.plot_diagnostics(DIAGNOSIS, title="digits")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "calibration", "asymmetry of the Jacobian", "Fokker-Planck residual", "Stein's identity",
    ]  # fmt: skip
    assert figure.get_suptitle() == "digits"
    target = io.BytesIO()
    viz.save_figure(figure, target)
    assert target.getvalue()[:4] == b"\x89PNG"


def test_a_density_in_time():
    x, ts = np.linspace(-3, 3, 61), np.linspace(1.0, 0.0, 11)
    density = np.exp(-0.5 * x[None] ** 2 / (0.1 + ts[:, None])) / np.sqrt(
        2 * np.pi * (0.1 + ts[:, None])
    )
    samples = np.random.default_rng(0).standard_normal((11, 400)) * np.sqrt(0.1 + ts[:, None])
    samples[0, :100] = 50.0  # outside of the picture, but of the sample
    figure = viz.plot_density_in_time(x, ts, density, samples, lines=3, title="back")
    image, _, profiles = figure.axes
    np.testing.assert_allclose(image.collections[0].get_array().ravel(), density.T.ravel())
    assert image.get_xlim() == (1.0, 0.0)  # as time runs
    assert len(image.lines) == 12
    for line, i in zip(profiles.lines, (0, 5, 10), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), density[i])
    steps = [patch.get_data() for patch in profiles.patches]
    areas = [np.sum(s.values * np.diff(s.edges)) for s in steps]
    np.testing.assert_allclose(areas, [0.75, 1.0, 1.0], atol=0.02)
    assert not viz.plot_density_in_time(x, ts, density).axes[2].patches


def test_misuse_is_named():
    x, ts = np.zeros(3), np.zeros(2)
    with pytest.raises(ValueError, match="got 1 times, 4 lines; expected two or more"):
        viz.plot_density_in_time(x, ts[:1], np.zeros((1, 3)))
    with pytest.raises(ValueError, match="density: 6 of 6 values are not finite"):
        viz.plot_density_in_time(x, ts, np.full((2, 3), np.nan))
