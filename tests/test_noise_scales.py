"""The rules of NCSNv2 against brute force, exact distributions and the paper's own tables."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from sdejax.noise_scales import (
    NoiseScales,
    count_levels,
    largest_distance,
    level_ratio,
    noise_scales,
    shell_overlap,
)

RNG = np.random.default_rng(0)
SKEWED = RNG.gamma(0.5, size=(301, 3, 2, 1)) * np.arange(1, 7).reshape(3, 2, 1)
# data, side of colour images, largest level, number of levels: appendix B.1 of the paper
TABLES = [("cifar10", 32, 50.0, 232), ("celeba", 64, 90.0, 500),
          ("lsun", 128, 190.0, 1086), ("ffhq", 256, 348.0, 2311)]  # fmt: skip


def brute_force(x):
    return scipy.spatial.distance.pdist(np.asarray(x, np.float64).reshape(len(x), -1)).max()


@pytest.mark.parametrize("chunk", [1, 7, 100, 1024])
@pytest.mark.parametrize("kind", ["skewed", "two far clusters", "sphere", "float32 far away"])
def test_the_largest_distance_is_that_of_all_pairs(kind, chunk):
    direction = RNG.normal(size=(200, 5))
    x = {
        "skewed": SKEWED,
        "two far clusters": direction + np.repeat([[0.0], [9.0]], 100, axis=0),
        "sphere": direction / np.linalg.norm(direction, axis=1, keepdims=True),  # nothing to skip
        "float32 far away": np.float32(direction + 1000),
    }[kind]
    assert largest_distance(x, chunk=chunk) == pytest.approx(brute_force(x), rel=1e-12)


def test_most_pairs_are_never_looked_at():
    """Two far points in a dense cloud: their distance tells that no other pair need be seen."""
    x = np.concatenate([RNG.normal(size=(4000, 3)), [[50.0, 0, 0], [-50.0, 0, 0]]])

    class Counted(np.ndarray):
        rows = 0

        def __getitem__(self, index):
            out = super().__getitem__(index)
            Counted.rows += len(out)
            return out

    assert largest_distance(x.view(Counted), chunk=100) == 100.0
    assert Counted.rows < 2 * 4002 + 500  # the mean, the radii, and little more


def test_a_limit_looks_at_evenly_spread_rows_and_bounds_from_below():
    x = np.arange(101.0)[:, None] ** 2
    assert largest_distance(x, limit=3) == 100**2  # rows 0, 50 and 100
    assert largest_distance(SKEWED, limit=50) <= largest_distance(SKEWED)
    assert largest_distance(SKEWED, limit=10_000) == largest_distance(SKEWED)


@pytest.mark.parametrize("ratio", [1.0, 1.01, 1.03, 1.05])
def test_the_overlap_is_the_share_of_a_chi_distribution(ratio):
    """r/sigma is chi with D degrees of freedom; the shell above is its normal approximation."""
    dim = 3 * 32**2
    low, high = ratio * (np.sqrt(dim) - 3 / np.sqrt(2)), ratio * (np.sqrt(dim) + 3 / np.sqrt(2))
    exact = scipy.stats.chi(dim).cdf(high) - scipy.stats.chi(dim).cdf(low)
    assert shell_overlap(ratio, dim) == pytest.approx(exact, abs=0.2 / np.sqrt(dim))


def test_the_overlap_is_the_share_of_drawn_noise():
    dim, ratio, n = 3 * 32**2, 1.0376, 4000
    length = np.concatenate([np.linalg.norm(RNG.normal(size=(500, dim)), axis=1) for _ in range(8)])
    inside = np.abs(length - ratio * np.sqrt(dim)) < 3 * ratio / np.sqrt(2)
    share = shell_overlap(ratio, dim)
    error = np.sqrt(share * (1 - share) / n)
    # The true mean of the length is sqrt(D) (1 - 1/(4D)): 0.0045 less, 0.3 % of the overlap.
    assert abs(inside.mean() - share) < 5 * error + 0.003


@pytest.mark.parametrize(("data", "side", "largest", "levels"), TABLES)
def test_the_paper_s_numbers_of_levels_have_one_overlap(data, side, largest, levels):
    """All four tables come back from one constant, 0.567; the paper says "about 0.5"."""
    dim = 3 * side**2
    scales = NoiseScales(0.01, largest, levels)
    assert shell_overlap(scales.ratio, dim) == pytest.approx(0.567, abs=6e-4)
    assert abs(count_levels(0.01, largest, level_ratio(dim, 0.567)) - levels) <= 2
    at_one_half = count_levels(0.01, largest, level_ratio(dim))
    assert 0.94 * levels < at_one_half < 0.95 * levels


@pytest.mark.parametrize("dim", [5, 64, 3072, 10**6])
@pytest.mark.parametrize("overlap", [0.05, 0.5, 0.9])
def test_the_ratio_solves_the_equation(dim, overlap):
    ratio = level_ratio(dim, overlap)
    assert shell_overlap(ratio, dim) == pytest.approx(overlap, abs=1e-9)
    shift = np.sqrt(2 * dim) * (ratio - 1)
    normal = scipy.stats.norm.cdf
    assert normal(shift + 3 * ratio) - normal(shift - 3 * ratio) == pytest.approx(overlap, abs=1e-9)


def test_the_fewest_levels_whose_ratio_is_small_enough():
    assert count_levels(0.01, 10.0, 10.0) == 4  # 10, 1, 0.1, 0.01 and not one more
    assert count_levels(0.01, 10.1, 10.0) == 5
    assert count_levels(1.0, 1.5, 2.0) == 2
    assert NoiseScales(0.01, 10.0, 4).ratio == pytest.approx(10.0)


def test_the_levels_of_a_data_set():
    scales = noise_scales(SKEWED, 0.02)
    assert scales.sigma_max == pytest.approx(brute_force(SKEWED), rel=1e-12)
    assert scales.sigma_min == 0.02
    assert scales.ratio <= level_ratio(6) < NoiseScales(*scales[:2], scales.num - 1).ratio
    assert noise_scales(SKEWED, 0.02, overlap=0.9).num > scales.num
    assert noise_scales(SKEWED, 0.02, limit=3).sigma_max < scales.sigma_max


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: largest_distance(SKEWED[:1]), "got 1 examples"),
        (lambda: largest_distance(SKEWED, limit=1), "got limit=1"),
        (lambda: largest_distance(np.array([[1.0], [np.nan]])), "not finite"),
        (lambda: level_ratio(2), "got dim=2; expected at least 5"),
        (lambda: level_ratio(64, 0.0), "got overlap=0.0"),
        (lambda: level_ratio(64, 0.999), "got overlap=0.999"),
        (lambda: count_levels(1.0, 0.5, 2.0), "sigma_min=1.0, sigma_max=0.5"),
        (lambda: count_levels(0.1, 0.5, 1.0), "ratio=1.0"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
