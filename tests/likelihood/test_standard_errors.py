"""Reported standard errors against the spread of log p about the exact one."""

import jax
import numpy as np
import pytest

from sdejax import processes, truth
from sdejax.divergence import hutchinson, hutchpp, orthogonal
from sdejax.likelihood import log_likelihood
from sdejax.truth import problems

KEY = jax.random.key(0)


def reported_and_errors(dist, divergence, examples, tolerance):
    """Standard errors, and log p less that of the model, which is p_tmin: alpha(1) is 0."""
    sde = processes.rectified_flow()
    denoiser = truth.denoiser(dist, sde)

    def one(keys):
        x = truth.sample_at(keys[0], dist, sde, sde.t_min)
        report = log_likelihood(
            keys[1], sde, denoiser, x, divergence=divergence, tolerance=tolerance
        )
        exact = truth.log_prob(dist, sde, x, sde.t_min)
        return report.standard_error, report.log_p - exact, report.result

    keys = jax.random.split(KEY, (examples, 2))
    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))(keys)
    reported, error, result = map(np.asarray, found)
    assert np.all(result == 0)
    return reported.astype(np.float64), error.astype(np.float64)


@pytest.mark.slow
def test_in_1024_dimensions_by_8_probes():
    """The root mean square of 256 reported errors is the observed spread within 20 %.

    Of a ratio of two such numbers 5 % are sampling error. The tolerance counts per entry of x: at
    1e-3 the error of the solve would be as large as that of the probes.
    """
    reported, error = reported_and_errors(problems.d1024(), hutchinson(8), 256, 1e-4)
    assert abs(np.sqrt(np.mean(reported**2)) / np.std(error, ddof=1) - 1.0) < 0.2
    assert abs(np.mean(error)) < 5 * np.std(error, ddof=1) / np.sqrt(len(error))


@pytest.mark.slow
@pytest.mark.parametrize("method", [orthogonal(4), hutchpp(9)], ids=["orthogonal", "hutchpp"])
def test_of_other_probes(method):
    """In 16 dimensions, where the directions of one estimate depend on one another."""
    reported, error = reported_and_errors(problems.d16(), method, 2000, 1e-4)
    ratio = np.sqrt(np.mean(reported**2)) / np.std(error, ddof=1)
    assert abs(ratio - 1.0) < 0.1, ratio
