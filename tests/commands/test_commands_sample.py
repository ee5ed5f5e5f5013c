"""``sdejax sample`` as users type it, run in this process."""

import numpy as np
from command import fails, sample
from PIL import Image
from tiny_config import STEPS

from sdejax import viz
from sdejax.cli import main


def test_samples_are_reproducible_and_depend_on_their_index(points, tmp_path, capsys):
    few, nfe = sample(points, tmp_path / "few.npz", "--num=8")
    assert f"8 samples, averaged weights of step {STEPS}, 4 evaluations" in capsys.readouterr().out
    assert few.shape == (8, 2)
    assert np.isfinite(few).all()
    np.testing.assert_array_equal(nfe, np.full(8, 3 + 1))
    many, _ = sample(points, tmp_path / "many.npz", "--num=16")
    np.testing.assert_allclose(many[:8], few, atol=1e-5)
    for other in ("--seed=1", "--raw", "--step=3"):
        x, _ = sample(points, tmp_path / "other.npz", "--num=8", other)
        assert not np.allclose(x, few, atol=1e-5), other


def test_samplers_steps_and_grids_can_be_chosen(points, tmp_path):
    choice = ("--sampler=heun", "--steps=4", "--grid=uniform", "--num=8")
    _, nfe = sample(points, tmp_path / "x.npz", *choice)
    np.testing.assert_array_equal(nfe, np.full(8, 2 * 4 + 1))
    _, nfe = sample(points, tmp_path / "x.npz", "--sampler=tsit5", "--num=8")
    assert len(set(nfe.tolist())) > 1  # adaptive where no steps are given


def test_pictures_of_points_and_of_images(points, digits, tmp_path, monkeypatch):
    sizes, beside, plot = [], [], viz.plot_points
    monkeypatch.setattr(viz, "plot_points", lambda x, y: beside.append(y) or plot(x, y))
    for workdir in (points, digits):
        out = tmp_path / "new" / f"{workdir.name}.png"
        main(["sample", "--workdir", str(workdir), "--num=8", "--out", str(out)])
        with Image.open(out) as picture:
            sizes.append(picture.size)
    assert min(sizes[0]) > 100
    assert min(sizes[1]) >= 2 * 8  # images of 8 x 8 in at least two rows and columns
    assert beside == [None]  # a workdir holds no data to show the samples beside


def test_labels(digits, tmp_path, capsys):
    default, _ = sample(digits, tmp_path / "x.npz", "--num=8")
    threes, _ = sample(digits, tmp_path / "x.npz", "--num=8", "--label=3")
    assert default.shape == (8, 8, 8, 1)
    np.testing.assert_allclose(threes[3], default[3], atol=1e-4)
    assert all(not np.allclose(threes[i], default[i], atol=1e-4) for i in (0, 1, 7))
    assert "quantile=2.0" in fails(
        capsys, "sample", "--workdir", digits, "--out", tmp_path / "y.npz", "--threshold=2"
    )
    command = ["sample", "--workdir", digits, "--out", tmp_path / "y.npz", "--num=8"]
    assert "0 to 9, or 10 for no label" in fails(capsys, *command, "--label=11")


def test_misuse_of_sample_is_named(points, tmp_path, capsys):
    command = ["sample", "--workdir", points, "--out", tmp_path / "x.npz"]
    for extra, message in {
        "--num=0": "num: got 0",
        "--sampler=hein": "did you mean 'heun'?",
        "--grid=karas": "did you mean 'karras'?",
        "--label=1": "not conditional",
        "--threshold=0.9": "sample.threshold: got 0.9, but the data have no fixed range",
        "--steps=-2": "at least 1",
        "--step=5": "choose one of [3, 6]",
        "--out=x.jpg": ".png or .npz",
        "--colour=red": "unknown argument '--colour=red'",
    }.items():
        assert message in fails(capsys, *command, extra)
    assert "train first" in fails(capsys, "sample", "--workdir", tmp_path / "no", "--out=x.npz")
    assert not (tmp_path / "x.npz").exists()
