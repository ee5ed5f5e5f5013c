"""Statistical assertions in standard errors: k = 5 with fixed seeds."""

import numpy as np

K = 5.0


def assert_mean(values, expected, k=K):
    """The mean over the first axis is ``expected`` within k standard errors, in every entry."""
    values = np.asarray(values, np.float64)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    z = np.abs(values.mean(axis=0) - np.asarray(expected, np.float64)) / error
    assert np.all(z <= k), f"{np.max(z):.1f} standard errors from {expected}: {values.mean(axis=0)}"


def assert_moments(samples, mean, variance, third, k=K):
    """Mean and central second and third moments of a scalar sample."""
    samples = np.asarray(samples, np.float64)
    assert_mean(samples, mean, k)
    assert_mean((samples - mean) ** 2, variance, k)
    assert_mean((samples - mean) ** 3, third, k)


def slope(x, y):
    """Slope of log y against log x by least squares."""
    return np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0]
