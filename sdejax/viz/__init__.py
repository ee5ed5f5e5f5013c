"""Pictures: images, paths and densities in the plane, loss curves, what is wrong with a score.

Every function returns a uint8 array or a matplotlib ``Figure`` and keeps no state: no pyplot, no
current figure, so it works without a display and in many threads. Save with ``save_image`` and
``save_figure``; in a notebook, ``display`` the figure.
"""

from sdejax.viz.curves import plot_curves, read_records
from sdejax.viz.diagnostics import (
    plot_asymmetry,
    plot_calibration,
    plot_density_in_time,
    plot_diagnostics,
    plot_residual,
    plot_stein,
)
from sdejax.viz.images import image_grid, to_pixels, trajectory_strip
from sdejax.viz.plane import plot_density, plot_points, plot_trajectories
from sdejax.viz.save import save_figure, save_image

__all__ = [
    "image_grid",
    "plot_asymmetry",
    "plot_calibration",
    "plot_curves",
    "plot_density",
    "plot_density_in_time",
    "plot_diagnostics",
    "plot_points",
    "plot_residual",
    "plot_stein",
    "plot_trajectories",
    "read_records",
    "save_figure",
    "save_image",
    "to_pixels",
    "trajectory_strip",
]
