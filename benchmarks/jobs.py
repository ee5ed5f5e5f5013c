"""What speed is measured on, for both frameworks: shapes, work and the numbers of the process.

MLP-S  input d = 16 and 64 Fourier features, 4 x 256 SiLU, output 16; batch 512
CNN-S  32x32x3, 64 channels, 3 residual blocks (GroupNorm 8, SiLU, conv 3x3, twice); batch 16
UNet-S diffusers' UNet2DModel(32, 3, 3), one layer a block, (32, 64, 64), attention at 16x16 and in
       the middle, 1.114 M parameters; batch 16

A train step draws x0's noise and times afresh, predicts eps of the VP process, and updates Adam and
a moving average. Sampling is DDIM, steps uniform in t, with a denoising step at the end.
"""

from __future__ import annotations

from typing import NamedTuple

BETA_MIN, BETA_MAX, T_MIN = 0.1, 20.0, 1e-3
LEARNING_RATE, EMA = 1e-4, 0.999
SIGMA_DATA = 0.5


class Workload(NamedTuple):
    """A network, its batch, and how much of it one answer holds."""

    event: tuple[int, ...]  # channels last
    batch: int
    flops: float  # of one example, forward
    train_steps: int  # in one answer
    sample_steps: int


WORKLOADS = {
    "MLP-S": Workload((16,), 512, 442_368, 10, 50),
    "CNN-S": Workload((32, 32, 3), 16, 0.460e9, 1, 10),
    "UNet-S": Workload((32, 32, 3), 16, 0.514e9, 1, 10),
}
GEMM = 1024  # side of the square matrices of the roofline
