import json

import jax
import jax.numpy as jnp
import pytest

from sdejax import processes, tables
from sdejax.prediction import Estimate, decode, encode
from sdejax.samplers.catalog import SAMPLERS
from sdejax.sde import SDE, coefficients
from sdejax.tables import component, look_up, make, near

VP = processes.vp()
TABLES = {
    "sde": tables.SDES,
    "prediction": tables.PREDICTIONS,
    "weight": tables.WEIGHTS,
    "times": tables.DENSITIES,
    "conditioning": tables.CONDITIONINGS,
    "scaling": tables.SCALINGS,
    "network": tables.NETWORKS,
    "objective": tables.OBJECTIVES,
}
ROWS = [(kind, name) for kind, table in TABLES.items() for name in table]


def arguments(kind):
    return (VP,) if kind == "times" else ()


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_can_be_spelled_out_stored_and_made(kind, name):
    spec = component(kind, name)
    assert next(iter(spec)) == "name"
    stored = json.loads(json.dumps(spec))  # as a checkpoint keeps it: tuples become lists
    made, again = (make(kind, s, *arguments(kind)) for s in (spec, stored))
    assert type(made) is type(again)
    if kind in ("sde", "network"):
        assert made == again


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_refuses_an_unknown_option_and_names_its_own(kind, name):
    spec = component(kind, name)
    for call in (
        lambda: component(kind, name, nonsense=1),
        lambda: make(kind, {**spec, "nonsense": 1}, *arguments(kind)),
    ):
        with pytest.raises(ValueError, match=f"{kind} '{name}' has no option 'nonsense'") as error:
            call()
        assert str([option for option in spec if option != "name"]) in str(error.value)


def test_options_reach_the_factory():
    assert component("sde", "ve", sigma_max=80.0)["sigma_max"] == 80.0
    ve = make("sde", component("sde", "ve", sigma_max=80.0))
    assert float(ve.sigma(1.0)) == pytest.approx(80.0)
    net = make("network", {"name": "mlp", "hidden": [4, 5]})
    assert net.hidden == (4, 5)
    wide = make("scaling", {"name": "unit_variance", "sigma_data": 3.0})
    assert float(wide(coefficients(VP, 1e-3))) == pytest.approx(1 / 3, rel=1e-3)


def test_the_nearest_name_and_option_are_named():
    with pytest.raises(ValueError, match=r"sampler: got 'hun'.*did you mean 'heun'\?"):
        look_up("sampler", SAMPLERS, "hun")
    with pytest.raises(ValueError, match=r"did you mean 'sigma_max'\?"):
        component("sde", "ve", sigma_mx=1.0)
    with pytest.raises(ValueError, match=r"network 'mlp' has no option 'hiden'.*mean 'hidden'\?"):
        make("network", {"name": "mlp", "hiden": (3,)})
    assert near("zzzzzz", SAMPLERS) == ""


@pytest.mark.parametrize("name", tables.PREDICTIONS)
def test_every_prediction_of_the_table_decodes_what_it_encodes(name):
    prediction = make("prediction", {"name": name})
    c = coefficients(VP, 0.4)
    truth = Estimate(jnp.array([0.3, -2.0]), jnp.array([1.1, 0.2]))
    x = c.alpha * truth.x0 + c.sigma * truth.eps
    found = decode(prediction, c, x, encode(prediction, c, truth))
    assert jnp.allclose(found.x0, truth.x0, atol=1e-5)
    assert jnp.allclose(found.eps, truth.eps, atol=1e-5)


@pytest.mark.parametrize("name", tables.WEIGHTS)
def test_every_weight_of_the_table_is_positive(name):
    weight = make("weight", {"name": name})
    c = jax.vmap(lambda t: coefficients(VP, t))(jnp.linspace(0.1, 0.9, 5))
    assert bool(jnp.all(jax.vmap(weight)(c) > 0))


@pytest.mark.parametrize("name", tables.DENSITIES)
def test_every_density_of_the_table_stays_in_the_time_range(name):
    density = make("times", {"name": name}, VP)
    t = jax.vmap(density.quantile)(jnp.linspace(0.001, 0.999, 99))
    assert bool(jnp.all(jnp.diff(t) > 0))
    assert 0.0 <= float(t[0]) < float(t[-1]) <= VP.t_max


@pytest.mark.parametrize("name", tables.CONDITIONINGS)
def test_every_conditioning_of_the_table_tells_noise_levels_apart(name):
    conditioning = make("conditioning", {"name": name})
    levels = jax.vmap(lambda t: conditioning(VP, t))(jnp.linspace(0.01, 1.0, 9))
    falls = -1 if name == "level_index" else 1  # NCSN counts from the largest level
    assert bool(jnp.all(falls * jnp.diff(levels) > 0))


@pytest.mark.parametrize("name", tables.GRIDS)
def test_every_grid_of_the_table_falls_from_end_to_end(name):
    ts = tables.GRIDS[name](VP, 7)
    assert bool(jnp.all(jnp.diff(ts) < 0))
    assert VP.t_min <= ts[-1] < ts[0] <= VP.t_max
    if name not in ("trailing", "leading"):  # DDPM's levels leave one end or the other out
        assert (float(ts[0]), float(ts[-1])) == pytest.approx((VP.t_max, VP.t_min))


def test_every_process_of_the_table_is_a_process():
    assert all(isinstance(make("sde", {"name": n}), SDE) for n in tables.SDES)
