"""One bad example among sixteen on eight devices, in an evaluation: told apart, the rest the same.

What is wrong with an example is its condition, as in the tests of samplers' faults, or the example.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import make_model, processes
from sdejax.build import Parts
from sdejax.conditioning import raw_time
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling
from sdejax.denoiser import no_scaling
from sdejax.evaluate import evaluate
from sdejax.evaluator import Options, evaluator
from sdejax.prediction import v
from sdejax.samplers.base import MAX_STEPS, NOT_FINITE, SUCCESS, check

NAN, INF, IN_PLACES, STIFF = 1.0, 2.0, 3.0, 4.0
FAULTS = {3: NAN, 6: INF, 9: IN_PLACES}  # two rows a device: a bad one has a good neighbour
X = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)


def network(params, x, t, cond):
    bad = (cond == NAN) | ((cond == IN_PLACES) & (t < 0.6))
    value = 0.3 * x + jnp.where(cond == STIFF, 1e4 * jnp.sin(3e5 * t), 0.0)
    return jnp.where(bad, jnp.nan, jnp.where(cond == INF, jnp.inf, value))


def evaluated(options, faults, x=X):
    model = make_model(network, v, batched=False, conditioning=raw_time, scaling=no_scaling)
    parts = Parts(processes.vp(), model, None, (2,), None)
    data = Dataset("sixteen", "test", x, Scaling((0.0,), (1.0,)))
    one = evaluator(parts, data, options)

    def rows(faults):
        cond = np.asarray([faults.get(row, 0.0) for row in range(16)], np.float32)
        return evaluate(one, None, data, 16, cond=cond, chunk=16)

    return rows({}), rows(faults)


def assert_told_apart(clean, faulty, codes):
    expected = np.asarray([codes.get(row, SUCCESS) for row in range(16)])
    np.testing.assert_array_equal(faulty.result, expected)
    good = expected == SUCCESS
    assert np.all(np.isnan(faulty.log_p[~good]))
    assert np.all(np.isfinite(faulty.log_p[good]))
    for new, old in zip(faulty, clean, strict=True):
        np.testing.assert_array_equal(new[good], old[good])


def test_an_ode_tells_bad_examples_apart():
    clean, faulty = evaluated(Options(trace="exact"), {**FAULTS, 14: STIFF})
    assert_told_apart(clean, faulty, {**dict.fromkeys(FAULTS, NOT_FINITE), 14: MAX_STEPS})
    assert faulty.nfe[list(FAULTS)].max() < 0.1 * faulty.nfe[14]  # nothing helps: it ends at once
    expected = r"1 of 16 examples ran .*\(example 14\); 3 of 16 .*\(examples 3, 6, 9\)"
    with pytest.raises(FloatingPointError, match=expected):
        check(faulty)


@pytest.mark.parametrize("method", ["elbo", pytest.param("chain", marks=pytest.mark.slow)])
def test_bounds_tell_bad_examples_apart(method):
    x = X.copy()
    x[12] = np.nan
    clean, faulty = evaluated(Options(method=method, draws=16, levels=20), FAULTS, x)
    codes = dict.fromkeys([*FAULTS, 12], NOT_FINITE)
    assert_told_apart(clean, faulty, codes)
    with pytest.raises(FloatingPointError, match=r"4 of 16 .*\(examples 3, 6, 9, 12\)"):
        check(faulty)
