"""Problems to measure methods on: mixtures that are fixed for good, so that figures compare.

| problem | events | what it is | hard because of |
|---|---|---|---|
| ``g2`` | [2] | 8 Gaussians on a circle, weights 1 to 8 | many modes of unequal weight |
| ``d16 d64 d1024`` | [d] | 16 isotropic Gaussians, widths 0.10 to 0.30 | dimension |
| ``l32`` | [32] | 6 skewed Gaussians of rank 4, floor 0.03 | widths 0.03 to 0.95 in one component |
| ``s2`` | [2] | 60 Gaussians along a two-armed spiral | curvature, thin and curved support |
| ``i8`` | [8, 8, 3] | 5 smooth images, each with 6 variations | image shape, falling spectrum |

``truth.sigma_data`` gives their standard deviations, all 0.44 to 0.52 but for l32's 0.27; samplers
and networks set for sigma_data = 0.5 serve them.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from sdejax.truth.distributions import Mixture, isotropic, low_rank, reshaped


def g2() -> Mixture:
    """Eight Gaussians of width 0.08 on a circle of radius 0.66, weights proportional to 1..8.

    Component k (0 to 7) has its mean at the angle 2 pi k / 8 and weight (k + 1) / 36.

    Returns:
        A mixture over [2].
    """
    angle = 2.0 * np.pi * np.arange(8) / 8
    means = 0.66 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return isotropic(*map(jnp.asarray, (np.arange(1.0, 9.0), means, np.full(8, 0.08))))


def cloud(d: int) -> Mixture:
    """Sixteen isotropic Gaussians with means 0.45 z, widths 0.10 to 0.30, Dirichlet(3) weights.

    One stream of ``numpy.random.RandomState(0)`` gives the means, then the weights.

    Args:
        d: dimension.

    Returns:
        A mixture over [d].
    """
    random = np.random.RandomState(0)
    means = 0.45 * random.randn(16, d)
    stds = np.geomspace(0.10, 0.30, 16)
    weights = random.dirichlet(3.0 * np.ones(16))
    return isotropic(*map(jnp.asarray, (weights, means, stds)))


def d16() -> Mixture:
    """``cloud(16)``."""
    return cloud(16)


def d64() -> Mixture:
    """``cloud(64)``."""
    return cloud(64)


def d1024() -> Mixture:
    """``cloud(1024)``."""
    return cloud(1024)


def l32() -> Mixture:
    """Six anisotropic Gaussians of rank 4 in 32 dimensions, skewed, on a floor of 0.03.

    Component k (0 to 5) has weight 2^-k but for normalisation and factors geomspace(0.95, 0.12, 4)
    along random orthonormal directions. The means lie on one line at the heights
    0.9 (1.5^k - 1), of which heavier components hold the low end: the marginals are skewed.

    Returns:
        A mixture over [32].
    """
    random = np.random.RandomState(32)
    directions = np.linalg.qr(random.randn(6, 32, 4))[0]
    line = random.randn(32)
    line /= np.linalg.norm(line)
    means = 0.9 * (1.5 ** np.arange(6) - 1.0)[:, None] * line
    factors = directions * np.geomspace(0.95, 0.12, 4)
    weights = 0.5 ** np.arange(6)
    return low_rank(*map(jnp.asarray, (weights, means, factors, np.full(6, 0.03))))


def s2() -> Mixture:
    """A spiral of two arms as sixty Gaussians, longer along the arm than across.

    Point j (0 to 29) of an arm has u = sqrt((j + 1/2) / 30), the radius 0.15 + 0.85 u and the angle
    2.5 pi u, plus pi for the second arm. Widths are 0.08 along the arm and 0.02 across; the second
    arm has half the weight of the first.

    Returns:
        A mixture over [2].
    """
    u = np.tile(np.sqrt((np.arange(30) + 0.5) / 30), 2)
    arm = np.repeat([0.0, 1.0], 30)
    radius, angle = 0.15 + 0.85 * u, 2.5 * np.pi * u + np.pi * arm
    out = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    around = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    along = 0.85 * out + (2.5 * np.pi * radius)[:, None] * around
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    factors = math.sqrt(0.08**2 - 0.02**2) * along[:, :, None]
    parts = 1.0 - 0.5 * arm, radius[:, None] * out, factors, np.full(60, 0.02)
    return low_rank(*map(jnp.asarray, parts))


def i8() -> Mixture:
    """Five smooth 8 x 8 images of three channels, each varying along six of its own.

    Images are sums of cosines cos(pi i (y + 1/2) / 8) cos(pi j (x + 1/2) / 8), i, j < 4, with
    normal coefficients of standard deviation 1 / (1 + i^2 + j^2) for each channel; means are scaled
    to entries of standard deviation 0.45 and variations to 0.2 together, the floor is 0.02, the
    weights are proportional to 1..5.

    Returns:
        A mixture over [8, 8, 3].
    """
    random = np.random.RandomState(8)
    order, place = np.arange(4), np.arange(8) + 0.5
    waves = np.cos(np.pi * order[:, None] * place[None] / 8)
    decay = 1.0 / (1.0 + order[:, None] ** 2 + order[None] ** 2)
    loads = random.randn(5, 7, 4, 4, 3) * decay[:, :, None]
    pictures = np.einsum("knijc,iy,jx->knyxc", loads, waves, waves).reshape(5, 7, -1)
    means = 0.45 * pictures[:, 0] / pictures[:, 0].std()
    factors = 0.2 / math.sqrt(6) * pictures[:, 1:] / pictures[:, 1:].std()
    parts = np.arange(1.0, 6.0), means, factors.swapaxes(1, 2), np.full(5, 0.02)
    return reshaped(low_rank(*map(jnp.asarray, parts)), (8, 8, 3))
