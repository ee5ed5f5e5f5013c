"""What the speed of likelihoods is measured on, for both frameworks.

D16    the exact velocity of the mixture, float64, a batch of 512
MLP-S  a network of that shape trained on draws of D16 to give the velocity, float32, a batch of
       512; ours in the default coordinates, the angle, and as "MLP-S native" in the network's t

The network is trained once, by the JAX worker, and handed over as a file.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from benchmarks.densities import draw
from benchmarks.problems import cloud

CASES = ("D16", "MLP-S")
OUR_CASES = (*CASES, "MLP-S native")
TRACES = ("exact", "1", "4")  # probes
BATCH = 512
LOOK = 64  # of them are looked at for the errors on the network, whose float64 takes long
COST_OF = {"MLP-S": ("0", "1", "4", "8", "exact"), "CNN-S": ("1", "4"), "UNet-S": ("1", "4")}
OURS = tuple(10.0 ** (-k / 6) for k in range(12, 43))  # tolerances, 1e-2 to 1e-7
THEIRS = tuple(10.0 ** (-k) for k in range(3, 7))
WEIGHTS = "BENCHMARK_WEIGHTS"  # the environment variable that holds the file's name
KERNELS = 5  # of MLP-S


def data(points: int = BATCH) -> np.ndarray:
    """The points whose likelihood is computed, [points, 16]."""
    return draw(cloud("D16", 16), BATCH, seed=11)[:points]


def looked_at(case: str) -> int:
    """How many points an error is taken over."""
    return BATCH if case == "D16" else LOOK


def weights() -> dict[str, np.ndarray]:
    """The arrays ``kernel_i`` [in, out] and ``bias_i`` of the trained network."""
    return dict(np.load(Path(os.environ[WEIGHTS]), allow_pickle=False))


def job(library: str, case: str, trace: str, tolerance: float) -> str:
    """The name of a job."""
    return f"{library} {case} {trace} {tolerance:.2e}"
