"""The table of samplers: names, and the documentation made of it."""

from pathlib import Path

import pytest

from sdejax import grids, processes, samplers
from sdejax.samplers import catalog
from sdejax.samplers.base import Method

ROOT = Path(__file__).resolve().parents[2]


def test_names_are_those_of_the_table():
    assert samplers.names() == list(catalog.SAMPLERS)
    assert {"ddim", "unipc_3", "dpmpp_2m", "heun"} <= set(samplers.names())


@pytest.mark.parametrize("name", catalog.SAMPLERS)
def test_every_row_makes_a_method_and_says_when_to_use_it(name):
    entry = catalog.SAMPLERS[name]
    assert isinstance(entry.method(None, grids.uniform), Method)
    if name in ("gotta_go_fast", "gotta_go_fast_ode"):
        with pytest.raises(ValueError, match="got 4 for a sampler that only adapts"):
            entry.method(4, grids.uniform)
    else:
        assert isinstance(entry.method(4, grids.uniform), Method)
    with pytest.raises(ValueError, match="at least 1"):
        entry.method(0, grids.uniform)
    assert entry.use
    assert entry.evaluations >= 1
    assert entry.kind == ("ODE" if entry.deterministic else "SDE")


@pytest.mark.parametrize("name", ["lms_4", "deis_3", "dpm_solver_2", "seeds_2"])
def test_methods_of_eps_refuse_a_start_without_data(name):
    """At t = 1 of the linear path alpha = 0, and y = x/alpha is infinite."""
    method = catalog.SAMPLERS[name].method(5, grids.uniform)
    with pytest.raises(ValueError, match=r"alpha = 0.*use"):
        method.require(processes.rectified_flow(), 1.0)


def test_the_documented_table_is_the_table():
    text = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    assert catalog.markdown() in text
