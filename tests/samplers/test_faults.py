"""One bad example among sixteen on eight devices: it is told apart, and nothing else changes.

What is wrong with an example is its condition: the same compiled program runs with and without
faults, so that the rows without one can be compared bit by bit.
"""

import ast
from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax
from sdejax import processes
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.prediction import x0
from sdejax.samplers.adaptive import gotta_go_fast
from sdejax.samplers.base import MAX_STEPS, NOT_FINITE, SUCCESS, check
from sdejax.samplers.catalog import SAMPLERS
from sdejax.samplers.diffeq import ode, reverse_sde
from sdejax.samplers.make import make_sampler
from sdejax.thresholding import clipped

KEY = jax.random.key(0)
SDE = processes.vp(t_min=0.05, t_max=0.9)
ROWS = np.arange(16, dtype=np.int32)
NAN, INF, IN_PLACES, AT_THE_END, STIFF = 1.0, 2.0, 3.0, 4.0, 5.0
# Two rows a device: a bad one has a good neighbour, and most devices have good ones only.
FAULTS = {3: NAN, 6: INF, 9: IN_PLACES, 13: AT_THE_END}


def network(params, x, t, cond):
    """x0 = 0.3 x for a good example."""
    bad = (cond == NAN) | ((cond == IN_PLACES) & (t < 0.6)) | ((cond == AT_THE_END) & (t < 0.1))
    value = 0.3 * x + jnp.where(cond == STIFF, 30.0 * jnp.sin(3e4 * t), 0.0)
    return jnp.where(bad, jnp.nan, jnp.where(cond == INF, jnp.inf, value))


MODEL = make_model(network, x0, batched=False, scaling=no_scaling, conditioning=raw_time)
# Good rows need 30 to 170 steps; the limit is what the stiff one runs into.
ADAPTIVE = {
    "tsit5": ode(max_steps=256),
    "clipped": ode(dfx.Heun(), controller=dfx.PIDController(rtol=1e-3, atol=1e-3), max_steps=96),
    "shark": reverse_sde(max_steps=256),
    "gotta_go_fast": gotta_go_fast(max_steps=320),
}


def condition(faults):
    return np.asarray([faults.get(row, 0.0) for row in ROWS], np.float32)


def both(method, faults, transform=None):
    """Without faults and with them."""
    draw = make_sampler(MODEL, method, (2,), transform=transform, devices=jax.devices())
    rows = jnp.asarray(ROWS)
    return [draw({}, SDE, KEY, rows, condition(each)) for each in ({}, faults)]


def assert_told_apart(clean, faulty, codes):
    (x, stats), (found, report) = clean, faulty
    expected = [codes.get(row, SUCCESS) for row in ROWS]
    np.testing.assert_array_equal(report.result, expected)
    np.testing.assert_array_equal(stats.result, SUCCESS)
    good = np.asarray(expected) == SUCCESS
    np.testing.assert_array_equal(found[good], x[good])
    np.testing.assert_array_equal(report.nfe[good], stats.nfe[good])


SHOWN = {"ddim", "predictor_corrector", "clipped", "gotta_go_fast"}


def some(names):
    """The rest, which other tests of the catalog have as well, is left to the slow suite."""
    return [n if n in SHOWN else pytest.param(n, marks=pytest.mark.slow) for n in names]


FIXED = [name for name in SAMPLERS if not name.startswith("gotta_go_fast")]


@pytest.mark.parametrize("name", some(FIXED))
def test_fixed_steps_tell_bad_examples_apart(name):
    method = SAMPLERS[name].method(8, sdejax.grids.uniform)
    clean, faulty = both(method, FAULTS)
    assert_told_apart(clean, faulty, dict.fromkeys(FAULTS, NOT_FINITE))
    expected = r"^4 of 16 examples met .* not finite there \(examples 3, 6, 9, 13\)$"
    with pytest.raises(FloatingPointError, match=expected):
        check(faulty[1])


@pytest.mark.parametrize("name", some(ADAPTIVE))
def test_adaptive_steps_tell_bad_examples_apart(name):
    transform = clipped(-1.0, 1.0) if name == "clipped" else None
    clean, faulty = both(ADAPTIVE[name], {**FAULTS, 14: STIFF}, transform)
    codes = {**dict.fromkeys(FAULTS, NOT_FINITE), 14: MAX_STEPS}
    assert_told_apart(clean, faulty, codes)
    # Where nothing helps the solve ends at once: it does not try until its steps run out.
    nfe = np.asarray(faulty[1].nfe)
    assert nfe[list(FAULTS)].max() < 0.8 * nfe[14], nfe
    expected = r"^1 of 16 examples ran out of steps.*\(example 14\); 4 of 16 .*\(examples 3, 6, 9"
    with pytest.raises(FloatingPointError, match=expected):
        check(faulty[1])


def calls(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).split(".")[-1], node


def test_nothing_raises_on_the_devices():
    """An exception on one device of several leaves the others waiting for it."""
    solves = 0
    for module in Path(sdejax.__file__).parent.rglob("*.py"):
        for name, node in calls(module):
            assert name not in {"error_if", "branched_error_if", "checkify"}, (module, node.lineno)
            if name == "diffeqsolve":
                throw = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("throw")
                assert throw == "False", (module, node.lineno)
                solves += 1
    assert solves
