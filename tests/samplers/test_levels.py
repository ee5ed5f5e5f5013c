"""Levels sigma/alpha of a grid, and the refusal of a start where they are infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES, PUBLISHED, interior

from sdejax import processes
from sdejax.samplers.levels import noise_levels, require_level


@pytest.mark.parametrize("name", PROCESSES)
def test_levels_are_those_of_the_published_formulas(name, x64):
    ts = interior(name)
    p = PUBLISHED[name]
    exact = p.sigma(ts.astype(np.longdouble)) / p.alpha(ts.astype(np.longdouble))
    found = noise_levels(PROCESSES[name](), jnp.asarray(ts))
    np.testing.assert_allclose(found, exact.astype(float), rtol=1e-10)


def test_a_start_at_alpha_0_is_refused_by_name():
    with pytest.raises(ValueError, match=r"deis: got t_max=1\.0 of RectifiedFlow, where alpha = 0"):
        require_level("deis", processes.rectified_flow(), 1.0)
    require_level("deis", processes.rectified_flow(t_max=0.99), 0.99)
    # Inside jit the value is not known, and nothing is refused.
    jax.jit(lambda t: require_level("deis", processes.rectified_flow(), t))(1.0)
