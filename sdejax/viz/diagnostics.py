"""What is wrong with a score, over the noise levels, and how a density on the line moves."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from sdejax.diagnostics import (
    Asymmetry,
    Calibration,
    Diagnosis,
    Mean,
    Residual,
    Stein,
)

_MODEL, _IDEAL, _OTHER = "#0072b2", "#7f7f7f", "#d55e00"  # told apart by colour-blind readers too


def plot_calibration(found: Calibration) -> Figure:
    """Error of the predicted noise beside its ideal, and the slope beside 1.

    Args:
        found: from ``diagnostics.calibration``.

    Returns:
        The figure of two panels; error bars are two standard errors.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    _errors(figure.add_subplot(1, 2, 1), found)
    _slope(figure.add_subplot(1, 2, 2), found)
    return figure


def plot_asymmetry(found: Asymmetry) -> Figure:
    """The antisymmetric part of the score's Jacobian relative to the symmetric one.

    Args:
        found: from ``diagnostics.asymmetry``.

    Returns:
        The figure; error bars are two standard errors, 0 is ideal.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    _asymmetry(figure.add_subplot(), found)
    return figure


def plot_residual(found: Residual) -> Figure:
    """The root mean square of the Fokker-Planck residual, in units of log-SNR and noise.

    Args:
        found: from ``diagnostics.residual``.

    Returns:
        The figure; error bars are two standard errors, 0 is ideal.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    _residual(figure.add_subplot(), found)
    return figure


def plot_stein(found: Stein) -> Figure:
    """What is left of Stein's identity under p_t and over the noise.

    Args:
        found: from ``diagnostics.stein``.

    Returns:
        The figure; error bars are two standard errors, 0 is ideal.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    _stein(figure.add_subplot(), found)
    return figure


def plot_diagnostics(found: Diagnosis, *, title: str = "") -> Figure:
    """Calibration, asymmetry, Fokker-Planck residual and Stein's identity in four panels.

    Args:
        found: from ``diagnostics.diagnose``.
        title: of the figure.

    Returns:
        The figure; error bars are two standard errors.
    """
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    _slope(figure.add_subplot(2, 2, 1), found.calibration)
    _asymmetry(figure.add_subplot(2, 2, 2), found.asymmetry)
    _residual(figure.add_subplot(2, 2, 3), found.residual)
    _stein(figure.add_subplot(2, 2, 4), found.stein)
    if title:
        figure.suptitle(title)
    return figure


def plot_density_in_time(
    x: Num[np.ndarray | jax.Array, " cells"],
    ts: Num[np.ndarray | jax.Array, " n"],
    density: Num[np.ndarray | jax.Array, "n cells"],
    samples: Num[np.ndarray | jax.Array, "n m"] | None = None,
    *,
    lines: int = 4,
    title: str = "",
) -> Figure:
    """A density on the line as it moves: a map over time, and profiles beside histograms.

    Args:
        x: where the density is known, e.g. ``fokker_planck.cells`` [cells].
        ts: times, up or down [n].
        density: from ``fokker_planck.solve`` [n, cells].
        samples: points of as many paths at the same times [n, m]; those outside of x are left out.
        lines: how many profiles, from the first time to the last.
        title: of the figure.

    Returns:
        The figure of two panels.

    Raises:
        ValueError: for fewer than two times or lines, or a density that is not finite.
    """
    x, ts, density = (np.asarray(array, np.float64) for array in (x, ts, density))
    if len(ts) < 2 or lines < 2:
        raise ValueError(f"ts, lines: got {len(ts)} times, {lines} lines; expected two or more")
    bad = int(np.sum(~np.isfinite(density)))
    if bad:
        raise ValueError(f"density: {bad} of {density.size} values are not finite")
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    # Narrow peaks would leave the rest of a linear scale dark.
    norm = PowerNorm(0.5, vmin=0.0, vmax=float(np.quantile(density.max(axis=1), 0.9)))
    picture = axes.pcolormesh(ts, x, density.T.clip(min=0.0), norm=norm, shading="nearest")
    figure.colorbar(picture, ax=axes, label="density", extend="max")
    axes.set(xlabel="t", ylabel="x", xlim=(ts[0], ts[-1]))
    paths = None if samples is None else np.asarray(samples, np.float64)
    if paths is not None:
        axes.plot(ts, paths[:, :12], color="white", lw=0.6, alpha=0.7)
        axes.set_ylim(x[0], x[-1])
    axes = figure.add_subplot(1, 2, 2)
    index = np.unique(np.linspace(0, len(ts) - 1, lines).round().astype(int))
    for j, i in enumerate(index):
        if paths is not None:
            _histogram(axes, paths[i], x, f"C{j}")
        axes.plot(x, density[i], color=f"C{j}", lw=1.5, label=f"t = {ts[i]:.3g}")
    axes.set(xlabel="x", ylabel="density", xlim=(x[0], x[-1]))
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize="small")
    if title:
        figure.suptitle(title)
    return figure


def _histogram(
    axes: Axes,
    points: Float[np.ndarray, " m"],
    x: Float[np.ndarray, " cells"],
    colour: str,
) -> None:
    """The share of all points in each bin, as a density."""
    inside = points[(points >= x[0]) & (points <= x[-1])]
    bins = int(np.clip(np.sqrt(len(points)), 10, 80))
    heights, edges = np.histogram(inside, bins=bins, range=(x[0], x[-1]))
    axes.stairs(heights / (len(points) * np.diff(edges)), edges, fill=True, color=colour, alpha=0.3)


def _errors(axes: Axes, found: Calibration) -> None:
    """The error, the ideal that its own size sets, and the error that nothing avoids."""
    _line(axes, found, found.mse, "error $|\\hat\\epsilon - \\epsilon|^2$", _MODEL)
    size = np.asarray(found.log_snr)
    axes.plot(
        size, 1.0 - np.asarray(found.norm.value), "--", color=_IDEAL,
        label="ideal, $1 - |\\hat\\epsilon|^2$",
    )  # fmt: skip
    if found.irreducible is not None:
        _line(axes, found, found.irreducible, "irreducible (exact score)", _OTHER)
    axes.set(ylabel="per entry", title="error of the noise")
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize="small")


def _slope(axes: Axes, found: Calibration) -> None:
    _line(axes, found, found.slope, "", _MODEL)
    axes.axhline(1.0, ls="--", color=_IDEAL)
    # Where hardly any noise is known the slope is anything: its bars may leave the picture.
    value, error = (np.asarray(part, np.float64) for part in found.slope)
    known = error < 0.1 * np.maximum(np.abs(value), 1.0)
    ends = np.concatenate([[0.8, 1.2], (value - 3 * error)[known], (value + 3 * error)[known]])
    axes.set_ylim(ends.min(), ends.max())
    axes.set(ylabel="slope of $\\epsilon$ on $\\hat\\epsilon$ (ideal: 1)", title="calibration")


def _asymmetry(axes: Axes, found: Asymmetry) -> None:
    _line(axes, found, found.ratio, "", _MODEL)
    axes.set(ylabel="$|J - J^T| / |J + J^T|$ (ideal: 0)", title="asymmetry of the Jacobian")
    axes.set_ylim(bottom=0.0)


def _residual(axes: Axes, found: Residual) -> None:
    """Roots, with bars that are the roots of the ends: around 0 a square knows no sign."""
    value, error = (np.asarray(part, np.float64) for part in found.scaled)
    low, middle, high = (np.sqrt(np.maximum(value + k * error, 0.0)) for k in (-2.0, 0.0, 2.0))
    bars = np.stack([middle - low, high - middle])
    axes.errorbar(
        np.asarray(found.log_snr), middle, bars, color=_MODEL, marker="o", ms=4, lw=1.4, capsize=2
    )
    _levels(axes, found)
    axes.set(ylabel="RMS residual (ideal: 0)", title="Fokker-Planck residual")
    axes.set_ylim(bottom=0.0)


def _stein(axes: Axes, found: Stein) -> None:
    _line(axes, found, found.gap, "$|\\hat\\epsilon|^2 - \\sigma$ div $\\hat\\epsilon$", _MODEL)
    label = "$\\langle\\hat\\epsilon, \\epsilon\\rangle - \\sigma$ div $\\hat\\epsilon$"
    _line(axes, found, found.agreement, label, _OTHER)
    axes.axhline(0.0, ls="--", color=_IDEAL)
    axes.set(ylabel="per entry (ideal: 0)", title="Stein's identity")
    axes.legend(fontsize="small")


def _line(
    axes: Axes,
    found: Calibration | Asymmetry | Stein,
    mean: Mean,
    label: str,
    colour: str,
) -> None:
    """Means with bars of two standard errors against the log-SNR."""
    value, error = (np.asarray(part, np.float64) for part in mean)
    axes.errorbar(
        np.asarray(found.log_snr), value, 2.0 * error, label=label or None, color=colour,
        marker="o", ms=4, lw=1.4, capsize=2,
    )  # fmt: skip
    _levels(axes, found)


def _levels(axes: Axes, found: Calibration | Asymmetry | Residual | Stein) -> None:
    """Noise on the left and data on the right, with the times along the top."""
    level, t = np.asarray(found.log_snr, np.float64), np.asarray(found.t, np.float64)
    axes.set_xlabel("log-SNR (noise $\\leftarrow$ $\\rightarrow$ data)")
    axes.grid(alpha=0.3)
    if not axes.child_axes and len(t) > 1:
        shown = np.unique(np.linspace(0, len(t) - 1, min(5, len(t))).round().astype(int))
        top = axes.secondary_xaxis("top")
        top.set_xticks(level[shown], [f"{value:.2g}" for value in t[shown]])
        top.set_xlabel("t", fontsize="small")
        top.tick_params(labelsize="small")
