"""Points, paths and densities in the plane: square panels with labelled axes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

_NOISE, _DATA, _PATH = "#7f7f7f", "#d55e00", "#0072b2"  # told apart by colour-blind readers too


def _plane(
    name: str, points: Num[np.ndarray | jax.Array, "..."], ndim: int
) -> Float[np.ndarray, "... 2"]:
    """Points of the plane as numpy, or a ValueError that names the argument."""
    x = np.asarray(points, np.float64)
    shape = "[n, 2]" if ndim == 2 else "[times, n, 2]"
    if x.ndim != ndim or x.shape[-1] != 2:
        raise ValueError(f"{name} must be points of the plane, {shape}: got {list(x.shape)}")
    bad = int(np.sum(~np.isfinite(x).all(axis=-1)))
    if bad or not x.size:
        raise ValueError(f"{name} must be finite and not empty: {bad} of {x.size // 2} are not")
    return x


def _panel(figure: Figure, *position: int, title: str, share: Axes | None = None) -> Axes:
    """A square panel of the plane with labelled axes."""
    axes = figure.add_subplot(*position, sharex=share, sharey=share)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", title=title, aspect="equal")
    return axes


def plot_points(
    points: Num[np.ndarray | jax.Array, "..."],
    reference: Num[np.ndarray | jax.Array, "..."] | None = None,
    *,
    titles: tuple[str, str] = ("samples", "data"),
) -> Figure:
    """Scatter points of the plane, beside a reference sample on the same axes.

    Args:
        points: [n, 2].
        reference: [m, 2], shown in a second panel with the same limits.
        titles: of the two panels.

    Returns:
        The figure.

    Raises:
        ValueError: if an argument does not hold finite points of the plane.
    """
    sets = [_plane("points", points, 2)]
    if reference is not None:
        sets.append(_plane("reference", reference, 2))
    figure, axes = Figure(figsize=(4.2 * len(sets), 4.2), layout="constrained"), None
    for i, (x, title, colour) in enumerate(zip(sets, titles, (_PATH, _DATA), strict=False)):
        axes = _panel(figure, 1, len(sets), i + 1, title=title, share=axes)
        # Dots thin out as they become many: density shows up to some 50,000 points.
        size = float(np.clip(4000 / len(x), 0.5, 12))
        axes.scatter(*x.T, s=size, color=colour, alpha=0.5, linewidths=0)
    return figure


def plot_trajectories(
    paths: Num[np.ndarray | jax.Array, "..."],
    *,
    reference: Num[np.ndarray | jax.Array, "..."] | None = None,
    title: str = "paths from noise to data",
) -> Figure:
    """Draw paths of points in the plane, from where they start to where they end.

    Args:
        paths: positions, [times, n, 2], noise first (as ``sample(..., save_at=...)`` saves them).
        reference: real data behind the paths, [m, 2].
        title: of the panel.

    Returns:
        The figure: a thin line per path, grey dots at its start, coloured ones at its end.

    Raises:
        ValueError: if an argument does not hold finite points of the plane.
    """
    x = _plane("paths", paths, 3)
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = _panel(figure, title=title)
    if reference is not None:
        axes.scatter(*_plane("reference", reference, 2).T, s=4, color="#e5b58f", label="data")
    opacity = float(np.clip(50 / x.shape[1], 0.08, 0.7))
    axes.add_collection(
        LineCollection(list(x.swapaxes(0, 1)), colors=_PATH, linewidths=0.7, alpha=opacity)
    )
    axes.scatter(*x[0].T, s=9, color=_NOISE, linewidths=0, label="start (noise)", zorder=3)
    axes.scatter(*x[-1].T, s=9, color=_DATA, linewidths=0, label="end (sample)", zorder=3)
    axes.autoscale_view()
    axes.legend(loc="best", fontsize="small", markerscale=2)
    return figure


def plot_density(
    log_prob_fn: Callable[[jax.Array], jax.Array],
    limits: tuple[float, float, float, float],
    *,
    resolution: int = 150,
    points: Num[np.ndarray | jax.Array, "..."] | None = None,
    title: str = "density",
) -> Figure:
    """Colour the plane by a density.

    Args:
        log_prob_fn: log-density of one point, [2] -> []; it is vmapped and jitted here.
        limits: (left, right, bottom, top) of the picture.
        resolution: grid cells along each axis; the density is taken at their centres.
        points: a sample drawn over the density, [n, 2].
        title: of the panel.

    Returns:
        The figure, with a colour bar.

    Raises:
        ValueError: if the limits are not increasing, or the density is NaN or infinite somewhere.
    """
    left, right, bottom, top = limits
    if not (left < right and bottom < top):
        raise ValueError(f"limits must be (left < right, bottom < top): got {limits}")
    u, v = (
        low + (high - low) * (np.arange(resolution) + 0.5) / resolution
        for low, high in ((left, right), (bottom, top))
    )
    grid = jnp.asarray(np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2), jnp.float32)
    density = np.exp(np.asarray(jax.jit(jax.vmap(log_prob_fn))(grid)))
    if not np.isfinite(density).all():
        raise ValueError(
            f"log_prob_fn must give a finite density: {int((~np.isfinite(density)).sum())} of "
            f"{density.size} grid points are NaN or infinite"
        )
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = _panel(figure, title=title)
    picture = axes.imshow(
        density.reshape(resolution, resolution), origin="lower", extent=limits, cmap="viridis"
    )
    figure.colorbar(picture, ax=axes, label="density")
    if points is not None:
        axes.scatter(*_plane("points", points, 2).T, s=4, color="white", alpha=0.6, linewidths=0)
        axes.set(xlim=(left, right), ylim=(bottom, top))
    return figure
