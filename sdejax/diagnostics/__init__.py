"""What is wrong with a learned score, at each noise level: means over data with standard errors.

``calibration`` asks whether it is a posterior mean, ``asymmetry`` whether it is a gradient,
``residual`` whether its times belong together and ``stein`` whether its size fits its divergence;
``diagnose`` asks all four. All are ideal for the exact score, take a ``Denoiser`` and data, and are
pure functions under ``jit`` and ``vmap``. Pictures: ``viz.plot_diagnostics``.
"""

from sdejax.diagnostics.asymmetry import Asymmetry, asymmetry
from sdejax.diagnostics.calibration import Calibration, calibration
from sdejax.diagnostics.levels import Mean, times
from sdejax.diagnostics.report import Diagnosis, diagnose
from sdejax.diagnostics.residual import Residual, residual
from sdejax.diagnostics.stein import Stein, stein

__all__ = [
    "Asymmetry",
    "Calibration",
    "Diagnosis",
    "Mean",
    "Residual",
    "Stein",
    "asymmetry",
    "calibration",
    "diagnose",
    "residual",
    "stein",
    "times",
]
