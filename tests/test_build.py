import json
from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config

from sdejax.build import (
    build_data,
    build_loss,
    build_model,
    build_optimizer,
    build_schedule,
    change,
    count_params,
    default_config,
    init_params,
    keys_of,
)
from sdejax.data.scaling import Scaling, integers, uncentred
from sdejax.losses import dequantised, model_score
from sdejax.nets.mlp import MLP
from sdejax.processes import vp
from sdejax.tables import OBJECTIVES, PREDICTIONS, SDES, component


def built(**changes):
    config = get_config()
    change(config, {key.replace("__", "."): value for key, value in changes.items()})
    plain = config.to_dict()
    return plain, build_model(plain, (2,), plain["conditional"] and 3)


def loss_of(plain, parts, batch):
    params = init_params(jax.random.key(0), parts)
    losses, _ = jax.jit(build_loss(plain, parts))(params, jax.random.key(1), batch)
    return losses


def batch_of(n=64, **more):
    x = np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32)
    return {"x": jnp.asarray(x), "position": jnp.arange(n), **more}


def test_the_default_config_is_json_and_builds():
    plain = default_config().to_dict()
    assert json.loads(json.dumps(plain))["network"]["name"] == "unet"
    parts = build_model(plain, (8, 8, 1), 10)
    assert parts.num_classes is None  # not asked for, although the data have labels
    build_optimizer(plain)
    build_schedule(plain)


@pytest.mark.parametrize("conditional", [False, True])
def test_parameters_are_counted_and_labels_add_some(conditional):
    _, parts = built(conditional=conditional)
    embed, width, hidden = 8, 16, 16  # Fourier features, their width, hidden units
    dense = (embed + 1) * width + (width + 1) * width + (2 + 1) * hidden
    dense += (width + 1) * hidden + (hidden + 1) * 2 + embed // 2
    labels = count_params(init_params(jax.random.key(0), parts)) - dense
    assert labels == ((3 + 1) * width if conditional else 0)


@pytest.mark.parametrize(("sde", "prediction"), zip(SDES, cycle(PREDICTIONS), strict=False))
def test_every_process_and_every_prediction_give_a_finite_loss(sde, prediction):
    config = get_config()
    config.sde = component("sde", sde)
    config.prediction = component("prediction", prediction)
    config.weight = component("weight", "simple")
    config.times = component("times", "uniform")
    plain = config.to_dict()
    losses = loss_of(plain, build_model(plain, (2,), None), batch_of())
    assert losses.shape == (64,)
    assert bool(jnp.all(jnp.isfinite(losses)))
    assert float(jnp.mean(losses)) > 0


def test_an_untrained_network_has_the_loss_of_its_output_zero():
    # edm: the output zero means x0_hat = c_skip x, so the weighted loss is E|F|^2 = 1 where the
    # data have the standard deviation that the prediction assumes.
    plain, parts = built(
        prediction__sigma_data=1.0, weight__sigma_data=1.0, scaling__sigma_data=1.0
    )
    losses = np.asarray(loss_of(plain, parts, batch_of(4096)))
    assert abs(losses.mean() - 1.0) < 5 * losses.std() / np.sqrt(len(losses))


def test_times_role_importance_keeps_the_objective_of_uniform_times():
    means = {}
    for name, role in [("uniform", "objective"), ("uniform_log_snr", "importance")]:
        config = get_config()
        config.sde = component("sde", "vp", t_min=0.1)
        config.times = component("times", name)
        config.times_role, config.data.batch_size = role, 8192
        plain = config.to_dict()
        losses = np.asarray(loss_of(plain, build_model(plain, (2,), None), batch_of(8192)))
        means[role] = losses.mean(), losses.std() / np.sqrt(len(losses))
    (a, da), (b, db) = means.values()
    assert abs(a - b) < 5 * np.hypot(da, db)


OTHERS = [name for name in OBJECTIVES if name != "denoising"]
ALSO = [n if n in ("sliced", "second_order") else pytest.param(n, marks=pytest.mark.slow)
        for n in OTHERS]  # fmt: skip


@pytest.mark.parametrize("name", ALSO)
def test_every_objective_of_a_config_trains_a_network(name):
    """Finite losses and gradients of a flax network; the config says which, with its options."""
    config = get_config()
    config.objective = component("objective", name)
    plain = config.to_dict()
    parts = build_model(plain, (2,), None)
    params, loss = init_params(jax.random.key(0), parts), build_loss(plain, parts)
    batch = batch_of()
    mean = jax.jit(jax.value_and_grad(lambda p: jnp.mean(loss(p, jax.random.key(1), batch)[0])))
    value, gradient = mean(params)
    assert bool(jnp.isfinite(value))
    size = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    assert 0 < size < float("inf")


@pytest.mark.parametrize("name", ["inner", "distance"])
def test_an_energy_of_a_config_makes_a_conservative_score(name):
    """The Jacobian of the score is symmetric; without the energy it is not."""
    for energy, symmetric in ((name, True), ("none", False)):
        _, parts = built(energy=energy)
        params = init_params(jax.random.key(0), parts)
        params["out"]["kernel"] += jax.random.normal(jax.random.key(1), (16, 2))
        score = model_score(parts.model, params, parts.sde, 0.5)
        jacobian = jax.jit(jax.jacfwd(score))(jnp.asarray([0.3, -0.8]))
        assert bool(abs(jacobian[0, 1] - jacobian[1, 0]) < 1e-4) == symmetric
    with pytest.raises(ValueError, match="energy: got 'potential'"):
        built(energy="potential")


def test_labels_are_dropped_as_often_as_asked_for():
    seen = {}
    for drop in (0.0, 1.0):
        plain, parts = built(conditional=True, label_drop=drop)
        params = init_params(jax.random.key(0), parts)
        params["out"]["kernel"] += 1.0  # or a fresh network says zero whatever the label
        loss = jax.jit(build_loss(plain, parts))
        seen[drop] = [
            loss(params, jax.random.key(1), batch_of(label=jnp.full(64, label)))[0]
            for label in (0, 2)
        ]
    assert not np.allclose(*seen[0.0])
    np.testing.assert_array_equal(*seen[1.0])


def test_dequantised_data_are_spread_over_the_bins_of_their_scaling():
    (plain, parts), (off, _) = built(data__dequantise=True), built()
    params, batch, key = init_params(jax.random.key(0), parts), batch_of(), jax.random.key(1)
    for scaling in (integers(17), integers(3)):
        spread = dequantised(lambda params, key, batch: (batch["x"], {}), 1 / scaling.scale[0])
        seen = batch | {"x": spread(None, key, batch)[0]}
        losses = build_loss(plain, parts, scaling=scaling)(params, key, batch)[0]
        np.testing.assert_allclose(losses, build_loss(off, parts)(params, key, seen)[0], rtol=1e-5)
        without = build_loss(off, parts, scaling=scaling)(params, key, batch)[0]
        assert np.all(np.asarray(losses) != np.asarray(without))
    for scaling in (None, Scaling()):
        with pytest.raises(ValueError, match=r"data\.dequantise: got True for real-valued data"):
            build_loss(plain, parts, scaling=scaling)


def test_uncentred_data_lie_between_0_and_1():
    config = default_config()
    config.data.centered = False
    for split in build_data(config.to_dict()):
        assert split.scaling == uncentred(integers(17))
    with pytest.raises(ValueError, match=r"data\.centered: got False for real-valued data"):
        build_data(built(data__centered=False)[0])


def test_change_sets_values_and_refuses_what_it_does_not_know():
    config = get_config()
    change(config, {"train.steps": 7, "network.hidden": (4, 4), "network.dtype": "bfloat16"})
    assert (config.train.steps, config.network.hidden) == (7, (4, 4))
    assert config.network.dtype == "bfloat16"
    with pytest.raises(
        ValueError, match=r"trian\.steps: .*no such key; did you mean 'train.steps'"
    ):
        change(config, {"trian.steps": 1})
    with pytest.raises(ValueError, match="train: the config has no such key"):
        change(config, {"train": 1})
    with pytest.raises(ValueError, match=r"steps.*many.*int"):
        change(config, {"train.steps": "many"})
    assert {"seed", "data.options.toy", "network.hidden", "sde.name"} <= set(keys_of(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", 0), ("log_every", 0), ("eval_every", 0), ("eval_batches", 0), ("keep", 0),
     ("checkpoint_every", -1), ("max_bad_steps", 0), ("sample_every", -1)],
)  # fmt: skip
def test_a_schedule_that_cannot_be_kept_is_refused_by_name(key, value):
    plain, _ = built(**{f"train__{key}": value})
    with pytest.raises(ValueError, match=rf"train\.{key}: got {value}; expected at least"):
        build_schedule(plain)


def test_no_pictures_is_a_schedule():
    plain, _ = built(train__sample_every=0)
    assert build_schedule(plain)[:2] == (6, 2)


def test_misuse_is_named():
    plain, _ = built(conditional=True)
    with pytest.raises(ValueError, match="conditional: got True, but the data have no labels"):
        build_model(plain, (2,), None)
    plain, parts = built(times_role="both")
    with pytest.raises(ValueError, match=r"times_role: got 'both'.*objective.*importance"):
        build_loss(plain, parts)
    for kind, mine in (("network", MLP(hidden=(3,))), ("sde", vp())):
        plain, _ = built()
        plain[kind] = {"name": "custom", "repr": "..."}
        with pytest.raises(ValueError, match=f"{kind}: .*pass it as {kind}="):
            build_model(plain, (2,), None)
        assert getattr(build_model(plain, (2,), None, **{kind: mine}), kind) is mine


def test_data_come_in_two_splits():
    train, held_out = build_data(get_config().to_dict())
    assert (train.split, held_out.split, len(train)) == ("train", "test", 512)
    assert not np.array_equal(train.x[:8], held_out.x[:8])
    train, held_out = build_data(get_config("digits").to_dict())
    assert (len(train), len(held_out), train.num_classes) == (1500, 297, 10)
