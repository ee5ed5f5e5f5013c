"""What a checkpoint says about its model is of the kind and size that it may have."""

import copy
import json
import math

import pytest

from sdejax.build import default_config
from sdejax.data.scaling import Scaling, integers
from sdejax.saved_meta import checked_meta
from sdejax.tables import TABLES, component


def meta(**changes):
    config = json.loads(json.dumps({**default_config().to_dict(), **changes}))
    data = {"scaling": integers(256).to_json(), "next_step": 7}
    return {"config": config, "data": data, "event_shape": [8, 8, 3], "num_classes": 10}


ROWS = [(kind, name) for kind in TABLES for name in TABLES[kind]]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_passes_as_it_is_saved(kind, name):
    found = checked_meta(meta(**{kind: component(kind, name)}), "here")
    assert found.config[kind]["name"] == name
    assert (found.event_shape, found.num_classes, found.step) == ((8, 8, 3), 10, 7)
    assert found.scaling == integers(256)


def test_real_valued_data_without_classes():
    saved = meta() | {"event_shape": [2], "num_classes": None}
    saved["data"]["scaling"] = Scaling((0.1, 0.2), (1.0, 2.0)).to_json()
    assert checked_meta(saved, "here").scaling == Scaling((0.1, 0.2), (1.0, 2.0))


def test_a_component_of_the_caller_and_an_older_config():
    saved = meta(network={"name": "custom", "repr": "mine"})
    del saved["config"]["objective"], saved["config"]["energy"]
    assert checked_meta(saved, "here").config["network"]["name"] == "custom"


ODD = {
    "config": [None, [], "x", {}, {"data": {}}],
    "config.sde": [None, {}, {"name": "no_such"}, {"name": ["vp"]}, {"name": {}}, "vp"],
    "config.sde.name": ["os.system", "!!python/name:os.system", 3],
    "config.sde.sigma_max": ["80", math.nan, math.inf, 1e300, 10**400, [80.0], True],
    "config.network.nf": [10**12, -(10**12), "128", 1.5, None, True, {"a": 1}],
    "config.network.num_res_blocks": [65, 10**9],
    "config.network.ch_mult": [3, [10**12], [[[[[1]]]]], [1] * 5000, ["a" * 5000]],
    "config.network.evil": [1],
    "config.prediction": [{"name": "x0", "sigma_data": 1}],
    "config.sample.steps": [10**12, "3", math.nan],
    "config.sample.sampler": [None, 3, ["ddim"]],
    "config.sample": [{}, None, [1]],
    "config.data.path": [None, 3],
    "config.data.options": [{"n": 10**30}, {"a": "x" * 5000}],
    "config.conditional": [1, "yes", None],
    "event_shape": [None, 3, [0], [-1, 3], [2.0], [2**60], [2**20, 2**20], [1] * 99, "88"],
    "num_classes": [0, -1, 2**60, "10", 1.5, True],
    "data": [None, [], {}, "x"],
    "data.next_step": [-1, 2**60, "7", None, 1.5],
    "data.scaling": [None, {}, []],
    "data.scaling.offset": [[], [math.nan], ["0"], None, [0.0, 0.0], 3],
    "data.scaling.scale": [[0.0], [math.inf], [True]],
    "data.scaling.levels": [1, 2**40, 2.5, "256"],
}


@pytest.mark.parametrize(("path", "value"), [(p, v) for p, vs in ODD.items() for v in vs])
def test_an_odd_value_is_one_error_that_says_where(path, value):
    saved = copy.deepcopy(meta(network=component("network", "unet")))
    *parents, last = path.split(".")
    node = saved
    for part in parents:
        node = node[part]
    node[last] = value
    with pytest.raises(ValueError, match=r"^here: what it says about its model") as error:
        checked_meta(saved, "here")
    assert len(str(error.value)) < 800
    del node[last]
    if path != "data.scaling.levels" and not path.endswith("evil") and path.count(".") < 2:
        with pytest.raises(ValueError, match=r"^here: what it says about its model"):
            checked_meta(saved, "here")
