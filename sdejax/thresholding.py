"""Transforms of a denoiser that keep x0 in the range of the data.

Networks overshoot, most of all under strong guidance. Replacing x0 leaves the pair a decomposition
of x_t: eps is recomputed from ``x_t = alpha x0 + sigma eps``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sdejax.prediction import Denoiser, replace_x0
from sdejax.sde import SDE, coefficients
from sdejax.types import Data

Transform = Callable[[Denoiser, SDE], Denoiser]


def clipped(low: float, high: float) -> Transform:
    """A transform that keeps x0 inside the range of the data and eps consistent with it.

    Args:
        low: smallest value of the data.
        high: largest value of the data.

    Returns:
        A function (denoiser, sde) -> denoiser, for the ``transform`` of ``make_sampler``.

    Raises:
        ValueError: unless low < high.
    """
    if not low < high:
        raise ValueError(f"clipped: got low={low}, high={high}; expected low < high")

    return _with_x0(lambda x0: jnp.clip(x0, low, high))


def thresholded(quantile: float = 0.995, low: float = -1.0, high: float = 1.0) -> Transform:
    """Dynamic thresholding: x0 is clipped at a quantile of its own size and scaled back.

    In units where the data fill [-1, 1], ``x0 <- clip(x0, -s, s) / s`` with s the quantile of |x0|
    over the example, and at least 1. Meant for strong guidance of images in pixel space.

    Args:
        quantile: the part of the values that is not clipped, in (0, 1].
        low: smallest value of the data.
        high: largest value of the data.

    Returns:
        A function (denoiser, sde) -> denoiser, for the ``transform`` of ``make_sampler``.

    Raises:
        ValueError: unless 0 < quantile <= 1 and low < high.

    Reference: Saharia et al. 2022, arXiv:2205.11487, section 2.3.
    """
    if not (0.0 < quantile <= 1.0 and low < high):
        raise ValueError(
            f"thresholded: got quantile={quantile}, low={low}, high={high}; expected "
            "0 < quantile <= 1 and low < high"
        )
    centre, half = 0.5 * (low + high), 0.5 * (high - low)

    def shrink(x0):
        unit = (x0 - centre) / half
        size = jnp.maximum(jnp.quantile(jnp.abs(unit), quantile), 1.0)
        return centre + half * jnp.clip(unit, -size, size) / size

    return _with_x0(shrink)


def _with_x0(change: Callable[[Data], Data]) -> Transform:
    """The transform that puts ``change(x0)`` in place of x0."""

    def transform(denoiser: Denoiser, sde: SDE) -> Denoiser:
        def changed(x, t):
            estimate = denoiser(x, t)
            return replace_x0(estimate, coefficients(sde, t), x, change(estimate.x0))

        return changed

    return transform
