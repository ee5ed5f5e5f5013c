"""How many noise levels, and which: the rules of NCSNv2.

The largest sigma_1 is the largest distance between two training examples, so that at the start
every one of them is within reach of every other (technique 1). The smallest, sigma_L, is where
noise no longer shows: 0.01 for images in [0, 1], hence 0.02 in [-1, 1].

Between them the levels are geometric, sigma_(i-1) = gamma sigma_i. In D dimensions the noise of
level i has a length r of nearly N(sqrt(D) sigma_i, sigma_i^2/2), a thin shell, and the levels
must be near enough for the shells to overlap: the share of shell i inside the three standard
deviations of shell i - 1,

    C(gamma) = Phi(sqrt(2D) (gamma - 1) + 3 gamma) - Phi(sqrt(2D) (gamma - 1) - 3 gamma),

is to be about 1/2 (technique 2). gamma - 1 falls as 1/sqrt(D), so large images take many levels.

The paper's own tables have C = 0.567 throughout. At C = 1/2 exactly a twentieth fewer levels do.

| data | D | sigma_1, sigma_L | paper's L | C of that | L at C = 1/2 |
|---|---|---|---|---|---|
| CIFAR-10 | 3 32^2 | 50, 0.01 | 232 | 0.567 | 220 |
| CelebA | 3 64^2 | 90, 0.01 | 500 | 0.567 | 473 |
| LSUN | 3 128^2 | 190, 0.01 | 1086 | 0.567 | 1026 |
| FFHQ | 3 256^2 | 348, 0.01 | 2311 | 0.567 | 2182 |

Techniques 3 to 5 are ``nets.ncsnv2``, ``samplers.annealed.step_size_rule`` and the averaged
parameters that every training run keeps.

Reference: Song and Ermon 2020, arXiv:2006.09011, sections 3.1 and 3.2.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Real

Rows = Real[Any, "n *event"]  # of NumPy, JAX or a memory map


class NoiseScales(NamedTuple):
    """Geometric noise levels: for ``ve(sigma_min, sigma_max)`` and ``times.levels(sde, num)``."""

    sigma_min: float  # sigma_L
    sigma_max: float  # sigma_1
    num: int  # L

    @property
    def ratio(self) -> float:
        """gamma, each level over the next smaller one."""
        return (self.sigma_max / self.sigma_min) ** (1.0 / (self.num - 1))


def largest_distance(x: Rows, *, limit: int | None = None, chunk: int = 1024) -> float:
    """The largest Euclidean distance between two examples (technique 1), exact.

    With the examples sorted by their distance R from the mean, most pairs need not be looked at:
    |x_i - x_j| <= R_i + R_j, and what has been found already may be more.

    Args:
        x: examples [n, *event], in the units of the network's input.
        limit: look at this many examples at most, evenly spread over the rows, and return a lower
            bound; None looks at all.
        chunk: examples held at once, twice; time and memory, not the result.

    Returns:
        The distance, computed in float64.

    Raises:
        ValueError: for fewer than two examples, or values that are not finite.

    Reference: Song and Ermon 2020, arXiv:2006.09011, technique 1.
    """
    if limit is not None and limit < len(x):
        if limit < 2:
            raise ValueError(f"largest_distance: got limit={limit}; expected at least 2")
        x = x[np.linspace(0, len(x) - 1, limit).astype(np.int64)]
    n = len(x)
    if n < 2:
        raise ValueError(f"largest_distance: got {n} examples; expected at least 2")

    def rows(index: np.ndarray | slice) -> np.ndarray:
        block = np.asarray(x[index], np.float64)
        return block.reshape(len(block), -1)

    blocks = [slice(start, start + chunk) for start in range(0, n, chunk)]
    centre = sum(rows(block).sum(axis=0) for block in blocks) / n
    radius = np.concatenate([np.linalg.norm(rows(block) - centre, axis=1) for block in blocks])
    if not np.all(np.isfinite(radius)):
        raise ValueError("largest_distance: x has values that are not finite; clean the array")
    order = np.argsort(-radius)
    radius = radius[order]
    best = 0.0
    for i in range(0, n, chunk):
        if 2.0 * radius[i] <= best:
            break
        left = rows(order[i : i + chunk]) - centre
        for j in range(i, n, chunk):
            if radius[i] + radius[j] <= best:
                break
            right = rows(order[j : j + chunk]) - centre
            lengths = radius[i : i + chunk, None] ** 2 + radius[None, j : j + chunk] ** 2
            square = lengths - 2.0 * left @ right.T
            a, b = np.unravel_index(np.argmax(square), square.shape)
            best = max(best, float(np.linalg.norm(left[a] - right[b])))
    return best


def shell_overlap(ratio: float, dim: int) -> float:
    """C(gamma), the share of a level's noise inside the shell of the level above.

    Args:
        ratio: gamma, at least 1.
        dim: D, the number of entries of an example.

    Returns:
        The share, in [0, 1]; the normal approximation of the module's head.

    Reference: Song and Ermon 2020, arXiv:2006.09011, technique 2.
    """
    shift = math.sqrt(2 * dim) * (ratio - 1.0)
    return _normal_cdf(shift + 3.0 * ratio) - _normal_cdf(shift - 3.0 * ratio)


def level_ratio(dim: int, overlap: float = 0.5) -> float:
    """The ratio gamma of neighbouring levels with ``shell_overlap(gamma, dim) = overlap``.

    Args:
        dim: D, the number of entries of an example, at least 5: below, the shells are so thick
            that they always overlap, and the normal approximation means nothing.
        overlap: C; the paper's rule is 0.5, its tables of levels have 0.567.

    Returns:
        gamma > 1.

    Raises:
        ValueError: for a smaller ``dim``, or an overlap outside (0, 0.99].

    Reference: Song and Ermon 2020, arXiv:2006.09011, technique 2.
    """
    if dim < 5:
        raise ValueError(
            f"level_ratio: got dim={dim}; expected at least 5; choose the levels of points of the "
            "plane by hand, e.g. a ratio of 1.5"
        )
    if not 0.0 < overlap <= 0.99:
        raise ValueError(f"level_ratio: got overlap={overlap}; expected a number in (0, 0.99]")
    low, high = 1.0, 2.0
    while shell_overlap(high, dim) > overlap:
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:  # until they are neighbouring numbers
        inside = shell_overlap(middle, dim) > overlap
        low, high = (middle, high) if inside else (low, middle)
    return low


def count_levels(sigma_min: float, sigma_max: float, ratio: float) -> int:
    """The fewest geometric levels, both ends included, whose ratio is at most ``ratio``.

    Args:
        sigma_min: the smallest level.
        sigma_max: the largest.
        ratio: gamma > 1.

    Returns:
        L, at least 2.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and ratio > 1.
    """
    if not (0.0 < sigma_min < sigma_max and ratio > 1.0):
        raise ValueError(
            f"count_levels: got sigma_min={sigma_min}, sigma_max={sigma_max}, ratio={ratio}; "
            "expected 0 < sigma_min < sigma_max and ratio > 1"
        )
    steps = math.log(sigma_max / sigma_min) / math.log(ratio)
    return 1 + max(1, math.ceil(steps * (1.0 - 1e-12)))  # a whole number may round up


def noise_scales(
    x: Rows, sigma_min: float = 0.01, *, overlap: float = 0.5, limit: int | None = None
) -> NoiseScales:
    """The noise levels for a data set, by techniques 1 and 2.

    Args:
        x: training examples [n, *event], in the units of the network's input.
        sigma_min: sigma_L, where noise no longer shows; the paper's for images in [0, 1], twice
            that for images in [-1, 1].
        overlap: C of ``level_ratio``.
        limit: as in ``largest_distance``.

    Returns:
        The levels.

    Raises:
        ValueError: as ``largest_distance``, ``level_ratio`` and ``count_levels``.

    Reference: Song and Ermon 2020, arXiv:2006.09011, techniques 1 and 2.
    """
    sigma_max = largest_distance(x, limit=limit)
    ratio = level_ratio(math.prod(x.shape[1:]), overlap)
    return NoiseScales(sigma_min, sigma_max, count_levels(sigma_min, sigma_max, ratio))


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
