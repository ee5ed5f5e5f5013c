import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_config import get_config

from sdejax import processes
from sdejax.build import build_data
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling, integers, uncentred
from sdejax.prediction import Estimate
from sdejax.results import finish, has_picture, rows_of, save_picture, transform_of
from sdejax.samplers.base import Stats


def test_the_report_at_the_end_is_of_the_samples_drawn(tmp_path, monkeypatch, capsys):
    config = get_config()
    config.sample.report_num, config.seed = 20, 3
    config, asked = config.to_dict(), []

    def generate(params, num, seed, progress):
        asked.append((params, num, seed))
        return np.full((num, 2), 0.5, np.float32), Stats(np.full(num, 7), np.zeros(num))

    def report(key, x, real, unseen, real_labels, unseen_labels):
        assert (x.shape, real.shape, unseen.shape) == ((20, 2), (512, 2), (512, 2))
        assert real_labels is unseen_labels is None
        return {"distance": 0.25}

    monkeypatch.setattr("sdejax.results.sample_report", report)
    monkeypatch.setattr("sdejax.results.format_report", str)
    finish(config, generate, "averaged", *build_data(config), tmp_path)
    assert asked == [("averaged", 20, 4)]  # another seed than that of the pictures on the way
    assert json.loads((tmp_path / "report.json").read_text()) == {"distance": 0.25}
    assert "distance" in (tmp_path / "report.txt").read_text()
    assert "7 evaluations each" in capsys.readouterr().out


def test_pictures_of_images_points_and_nothing(tmp_path):
    gray = np.zeros((4, 8, 8, 1), np.float32)
    picture = save_picture(tmp_path / "deep" / "images.png", gray, integers(17))
    assert picture.dtype == np.uint8
    assert set(picture.ravel()) >= {128}  # the middle of the range
    points = np.random.default_rng(0).standard_normal((9, 2)).astype(np.float32)
    assert save_picture(tmp_path / "alone.png", points, Scaling()) is None
    assert save_picture(tmp_path / "beside.png", points, Scaling(), points) is None
    sizes = {}
    for name in ("alone", "beside"):
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
    assert sizes["beside"][0] > 1.5 * sizes["alone"][0]
    assert save_picture(tmp_path / "none.png", np.zeros((4, 3), np.float32), Scaling()) is None
    assert save_picture(tmp_path / "none.png", gray, Scaling()) is None  # no grey levels
    assert not (tmp_path / "none.png").exists()


def test_events_without_a_picture_are_kept_as_numbers(tmp_path, capsys):
    config = get_config().to_dict()
    x = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    data = Dataset("table", "train", x, Scaling((1.0,), (2.0,)))
    assert not has_picture((5,), data.scaling)

    def generate(params, num, seed, progress):
        return x[:num], Stats(np.ones(num), np.zeros(num))

    finish(
        {**config, "sample": {**config["sample"], "num": 8, "report_num": 0}},
        generate, None, data, data, tmp_path,
    )  # fmt: skip
    assert "samples.npz" in capsys.readouterr().out
    np.testing.assert_allclose(
        np.load(tmp_path / "samples.npz", allow_pickle=False)["x"], 2 * x[:8] + 1, rtol=1e-6
    )


def test_rows_are_spread_over_the_data():
    data = Dataset("ramp", "train", np.arange(10.0, dtype=np.float32)[:, None], Scaling())
    np.testing.assert_array_equal(rows_of(data, 4)["x"][:, 0], [0, 3, 6, 9])


def test_the_denoiser_is_changed_as_the_config_says():
    """Data of 17 grey levels fill [-1, 1] in the network's range."""
    sde, x = processes.vp(), jnp.asarray([2.0, -0.5, 0.1])
    wide = lambda x, t: Estimate(jnp.asarray([3.0, -4.0, 0.5]), x)  # noqa: E731

    grey = integers(17)

    def x0(scaling=grey, **sample):
        wanted = {"sample": {"clip": False, "threshold": 0.0, **sample}}
        transform = transform_of(wanted, scaling)
        return transform and np.asarray(transform(wide, sde)(x, 0.5).x0)

    assert x0() is None
    np.testing.assert_allclose(x0(clip=True), [1.0, -1.0, 0.5])
    np.testing.assert_allclose(x0(threshold=0.5), [1.0, -1.0, 0.5 / 3])  # the middle size is 3
    # In [0, 1] they are 2 y - 1 = 5, -9 and 0 in units of the range.
    np.testing.assert_allclose(x0(uncentred(integers(17)), clip=True), [1.0, 0.0, 0.5])
    np.testing.assert_allclose(x0(uncentred(integers(17)), threshold=0.5), [1.0, 0.0, 0.5])
    with pytest.raises(ValueError, match=r"sample\.clip: got True, but .* set it to False"):
        x0(Scaling(), clip=True)
    with pytest.raises(ValueError, match=r"sample\.threshold: got 0\.9, but .* set it to 0\.0"):
        x0(Scaling(), threshold=0.9)
