import dataclasses
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import processes
from sdejax.api import fit, load
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling
from sdejax.nets.mlp import MLP
from sdejax.sde import SDE

TINY = {"steps": 4, "batch_size": 64, "train__eval_batches": 1, "train__sample_every": 0,
        "train__checkpoint_every": 4, "sample__steps": 3, "sample__num": 8}  # fmt: skip
NET = MLP(hidden=(16,), time_features=8)


def points(n=300, shift=5.0):
    """Points far from the standard normal, so that a forgotten scaling shows."""
    return (shift + 3.0 * np.random.default_rng(0).standard_normal((n, 2))).astype(np.float32)


class Own(nn.Module):
    """A network that no table has."""

    width: int = 4

    @nn.compact
    def __call__(self, x, t, cond=None, *, train=False):
        h = jnp.concatenate([x, t[:, None]], axis=-1)
        return nn.Dense(x.shape[-1])(nn.tanh(nn.Dense(self.width)(h)))


class Trigonometric(SDE):
    """A process that no table has."""

    t_max: float = 1.5

    def alpha(self, t):
        return jnp.cos(t)

    def sigma(self, t):
        return jnp.sin(t)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of an array in a network and process of the tables, and its folder."""
    workdir = tmp_path_factory.mktemp("fit")
    return fit(NET, points(), processes.vp(beta_max=15.0), workdir=workdir, **TINY), workdir


def test_load_gives_the_model_that_fit_gave(trained):
    model, workdir = trained
    again = load(workdir)
    assert (again.step, again.scaling) == (model.step, model.scaling)
    assert again.parts.sde == model.parts.sde == processes.vp(beta_max=15.0)
    assert again.parts.network == NET
    np.testing.assert_array_equal(again.sample(8)[0], model.sample(8)[0])
    assert not np.array_equal(load(workdir, raw=True).sample(8)[0], model.sample(8)[0])


def test_samples_come_in_the_units_of_the_data(trained):
    model, _ = trained
    x, stats = model.sample(256)
    assert x.shape == (256, 2)
    assert stats.nfe.shape == (256,)
    assert np.all(np.abs(x.mean(axis=0) - 5.0) < 2.0)  # scaled back, however little it was trained
    np.testing.assert_allclose(model.scaling.offset, points().mean(axis=0), atol=0.5)


def test_the_configured_sampler_keeps_its_steps_and_another_has_its_own(trained):
    model, _ = trained

    def nfe(**options):
        return set(np.asarray(model.sample(8, **options)[1].nfe).tolist())

    assert nfe() == nfe(sampler="ddim") == {3 + 1}
    assert nfe(sampler="heun", steps=4, grid="karras") == {2 * 4 + 1}
    assert nfe(sampler="ancestral") == {250 + 1}


def test_asking_again_compiles_nothing(trained, monkeypatch):
    model, _ = trained
    model.sample(8)
    monkeypatch.setattr("sdejax.trained.generator_of", None)
    model.sample(16, seed=4)


def test_seeds_and_progress(trained, capsys):
    model, _ = trained
    one, other = (model.sample(8, seed=seed)[0] for seed in (1, 2))
    assert not np.allclose(one, other)
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(model.sample(8, seed=1, progress=True)[0], one)
    assert "100%" in capsys.readouterr().err


def test_a_fit_goes_on_where_it_stopped(tmp_path, capsys):
    options = {**TINY, "optimizer__schedule": "constant", "train__checkpoint_every": 2}
    first = fit(NET, points(), processes.vp(), workdir=tmp_path, **{**options, "steps": 2})
    second = fit(NET, points(), processes.vp(), workdir=tmp_path, **options)
    assert (first.step, second.step) == (2, 4)
    assert "resuming at step 2 of 4" in capsys.readouterr().out


def test_labels_make_a_conditional_model(tmp_path):
    labels = np.arange(300) % 3
    net, sde = NET.clone(num_classes=3), processes.edm(sigma_max=20.0)
    model = fit(net, points(), sde, labels=labels, workdir=tmp_path, **TINY)
    assert model.parts.num_classes == 3
    again = load(tmp_path)
    assert again.parts.sde == sde
    for label in (0, 2, np.arange(6) % 3):
        np.testing.assert_array_equal(
            again.sample(6, labels=label)[0], model.sample(6, labels=label)[0]
        )
    with pytest.raises(ValueError, match=r"0 to 2, or 3 for no label"):
        model.sample(6, labels=7)


def test_a_dataset_keeps_its_own_scaling_and_held_out_array_follows(tmp_path):
    scaling = Scaling((5.0, 5.0), (3.0, 3.0))
    data = Dataset("mine", "train", points(), scaling)
    model = fit(NET, data, processes.vp(), held_out=points(64), workdir=tmp_path, **TINY)
    assert model.scaling == load(tmp_path).scaling == scaling
    assert model.config["data"]["source"] == "mine"


def test_a_network_and_a_process_of_ones_own_are_given_back_to_load(tmp_path):
    model = fit(Own(), points(), Trigonometric(), workdir=tmp_path, **TINY)
    assert json.loads((tmp_path / "config.json").read_text())["network"]["name"] == "custom"
    again = load(tmp_path, network=Own(), sde=Trigonometric())
    np.testing.assert_array_equal(again.sample(8)[0], model.sample(8)[0])
    with pytest.raises(ValueError, match=r"network: .*of your own.*pass it as network="):
        load(tmp_path, sde=Trigonometric())
    with pytest.raises(ValueError, match=r"sde: .*of your own.*pass it as sde="):
        load(tmp_path, network=Own())


@pytest.mark.parametrize(
    "sde",
    [
        processes.vp(beta_min=0.2),
        processes.sub_vp(t_max=0.9),
        processes.ve(sigma_max=9.0),
        processes.cosine(shift=0.01),
        processes.edm(sigma_min=0.01, sigma_max=9.0),
        processes.rectified_flow(t_max=0.99),
        processes.VP(beta_max=jnp.asarray(12.5)),
    ],
)
def test_every_process_survives_its_spelling(sde):
    from sdejax.api import _spelled
    from sdejax.tables import make

    again = make("sde", json.loads(json.dumps(_spelled("sde", sde))))
    assert again == sde


@pytest.mark.parametrize(
    "network",
    [NET, MLP(dtype=jnp.bfloat16), MLP(dtype="float32"), MLP(dtype=np.dtype("float16"))],
)
def test_every_network_survives_its_spelling(network):
    from sdejax.api import _spelled
    from sdejax.tables import make

    again = make("network", json.loads(json.dumps(_spelled("network", network))))
    for field in dataclasses.fields(network):
        if field.name not in ("dtype", "parent", "name"):
            assert getattr(again, field.name) == getattr(network, field.name)
    if network.dtype is not None:
        assert jnp.dtype(again.dtype) == jnp.dtype(network.dtype)


def test_misuse_is_named(tmp_path):
    def wrong(message, data=None, **options):
        with pytest.raises(ValueError, match=message):
            fit(NET, points() if data is None else data, processes.vp(),
                workdir=tmp_path / "run", **{**TINY, **options})  # fmt: skip

    wrong(r"train\.ema_dcay: .*no such key; did you mean 'train.ema_decay'", train__ema_dcay=0.9)
    wrong("parallel", parallel=3.5)
    wrong(r"weight: got 'edn'.*mean 'edm'\?", weight="edn")
    wrong("labels", labels=np.zeros(3, int))
    wrong("data: got shape", data=np.zeros(9))
    wrong("NaN", data=np.full((9, 2), np.nan))
    wrong("labels: a Dataset has its own", labels=np.zeros(300, int),
          data=Dataset("mine", "train", points(), Scaling()))  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_load_of_nothing_says_so(tmp_path):
    with pytest.raises(ValueError, match="is missing: check --workdir, or train first"):
        load(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        load(tmp_path)
