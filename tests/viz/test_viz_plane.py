"""What is drawn is what was given: offsets of dots, vertices of lines, values of the grid."""

import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.viz import plot_density, plot_points, plot_trajectories


def points(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 2))


def test_points_stand_beside_the_reference_on_the_same_axes():
    x, y = points(0, 30), 3 * points(1, 50)
    left, right = plot_points(x, jnp.asarray(y, jnp.float32), titles=("model", "truth")).axes
    np.testing.assert_array_equal(left.collections[0].get_offsets(), x)
    np.testing.assert_allclose(right.collections[0].get_offsets(), y, rtol=1e-6)
    assert (left.get_title(), right.get_title()) == ("model", "truth")
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert left.get_aspect() == right.get_aspect() == 1
    assert left.get_xlim()[1] > y[:, 0].max()
    assert len(plot_points(x).axes) == 1


def test_trajectories_join_start_and_end():
    paths = points(2, 7, 20)
    (axes,) = plot_trajectories(paths, reference=points(3, 9)).axes
    data, lines, start, end = axes.collections
    assert len(data.get_offsets()) == 9
    np.testing.assert_allclose(np.stack(lines.get_segments(), axis=1), paths)
    np.testing.assert_array_equal(start.get_offsets(), paths[0])
    np.testing.assert_array_equal(end.get_offsets(), paths[-1])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["data", "start (noise)", "end (sample)"]
    for low, high, values in zip(
        *zip(axes.get_xlim(), axes.get_ylim(), strict=True), paths.reshape(-1, 2).T, strict=True
    ):
        assert low < values.min()
        assert high > values.max()


def test_density_at_cell_centres_with_its_axes_the_right_way_round():
    def log_prob_fn(x):
        return -jnp.sum((x - jnp.array([1.0, -0.5])) ** 2 / jnp.array([0.5, 2.0]))

    figure = plot_density(log_prob_fn, (-2.0, 3.0, -4.0, 2.0), resolution=20, points=points(4, 5))
    axes, bar = figure.axes
    values = np.asarray(axes.images[0].get_array())
    u, v = -2 + 5 * (np.arange(20) + 0.5) / 20, -4 + 6 * (np.arange(20) + 0.5) / 20
    exact = np.exp(-((u[None] - 1) ** 2) / 0.5 - (v[:, None] + 0.5) ** 2 / 2)
    np.testing.assert_allclose(values, exact, rtol=1e-4)
    assert axes.images[0].origin == "lower"
    assert tuple(axes.images[0].get_extent()) == (-2, 3, -4, 2)
    assert (axes.get_xlim(), axes.get_ylim()) == ((-2, 3), (-4, 2))
    assert bar.get_ylabel() == "density"


def test_misuse():
    with pytest.raises(ValueError, match=r"points must be points of the plane, \[n, 2\]"):
        plot_points(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"paths .* \[times, n, 2\]: got \[4, 2\]"):
        plot_trajectories(np.zeros((4, 2)))
    bad = points(0, 5)
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="reference must be finite and not empty: 1 of 5"):
        plot_points(points(0, 5), bad)
    with pytest.raises(ValueError, match="left < right"):
        plot_density(jnp.sum, (1.0, 1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="50 of 100 grid points"):
        plot_density(lambda x: jnp.log(x[0]), (-1.0, 1.0, 0.0, 1.0), resolution=10)
