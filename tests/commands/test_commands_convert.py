"""``sdejax convert`` as users type it, and what its workdir is good for."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from command import fails

from sdejax.cli import main
from sdejax.data.sources import load as data_of
from sdejax.published.runs import PUBLISHED

FILE = Path(__file__).parents[2] / "colab" / "digits_ddpmpp.pth"
OPTIONS = (
    "--preset", "cifar10_ddpmpp_continuous", "--image-size", "8", "--channels", "1",
    "--levels", "17", "--config.network.nf=16", "--config.network.ch_mult=(1,1)",
    "--config.network.num_res_blocks=1", "--config.network.attn_resolutions=(4,)",
    "--config.data.source=digits", "--config.data.path=",
)  # fmt: skip
VP = ("--preset", "vp/cifar10_ddpmpp_continuous", *OPTIONS[2:])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("converted")
    main(["convert", str(FILE), "--workdir", str(workdir), *VP])
    return workdir


def test_it_says_what_it_made_and_what_comes_next(tmp_path, capsys):
    main(["convert", str(FILE), "--workdir", str(tmp_path / "w"), *VP])
    found = capsys.readouterr()
    assert re.search(
        r"w: vp/cifar10_ddpmpp_continuous, 78,385 parameters, images \[8, 8, 1\], step 6000 of "
        r"digits_ddpmpp\.pth \(score_sde_pytorch\); their average has decay 0\.999\n"
        r"next, .*: sdejax sample --workdir \S+/w --num ",
        found.out,
    )
    assert "Adam" not in found.out
    assert "reading" in found.err  # the bar


def test_samples_and_likelihoods_come_from_the_workdir(workdir, tmp_path, capsys):
    out = tmp_path / "x.npz"
    main(["sample", "--workdir", str(workdir), "--out", str(out), "--num", "64",
          "--sampler", "dpmpp_2m", "--steps", "15", "--grid", "log_snr"])  # fmt: skip
    with np.load(out, allow_pickle=False) as found:
        x = found["x"]
    assert x.shape == (64, 8, 8, 1)
    # Digits in their own values, 0 to 16: their mean image is that of the data.
    data, n = data_of("digits", split="test").x[np.arange(297)].astype(np.float32), 64
    error = x.mean(0) - data.mean(0)
    sd = np.sqrt((data.std(0) ** 2).sum() / n)
    assert np.sqrt((error**2).sum()) < 2 * sd
    main(["likelihood", "--workdir", str(workdir), "--num", "4", "--chunk", "4", "--method",
          "elbo", "--draws", "16"])  # fmt: skip
    assert re.search(r"bits", capsys.readouterr().out)


def test_what_cannot_be_decided_is_asked_for(tmp_path, capsys):
    error = fails(capsys, "convert", FILE, "--workdir", tmp_path, *OPTIONS)
    assert "may be any of vp/cifar10_ddpmpp_continuous, subvp/cifar10_ddpmpp_continuous" in error
    assert "--preset" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (FILE, "--preset", "vp/cifar10_ddpmp"),
            "did you mean vp/cifar10_ddpmpp? The presets are vp/",
        ),
        ((FILE, *VP, "--levels", "1"), "levels: got 1; expected 2 to 65536 grey levels"),
        ((FILE, *VP, "--image-size", "0"), "--image-size: got 0; expected at least 1"),
        ((FILE, *VP, "--config.network.nff=3"), "--config.network.nff: no such key"),
        ((FILE, *VP, "--config.network.nf=8"), "all_modules.0.weight has shape (64, 16), expec"),
        ((FILE, "--config.seed=1"), "preset: options of the config need one that they change"),
        (("absent.pth", *VP), "absent.pth: there is no such file. The authors link their files"),
        ((Path(__file__), *VP), "test_commands_convert.py: "),
        ((FILE, *VP, "--config.sde.name=ve"), "sde.name: got 've', but the preset has 'vp'"),
        ((FILE, *VP, "--config.optimizer.name=sgd"), "optimizer.name: got 'sgd', but the pre"),
        ((FILE, "--image-size", "8"), "no preset was given, and the 152 tensors"),
        (("--config.network.nf", "16", FILE), "overrides are --config.KEY=VALUE"),
        ((FILE, "--nonsense"), "unknown argument '--nonsense'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    assert message in fails(capsys, "convert", *arguments, "--workdir", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_help_lists_every_preset_and_says_where_files_are(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert set(PUBLISHED) <= set(re.split(r"[,\s]+", text))
    assert "github.com/yang-song/score_sde_pytorch" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_config_of_the_workdir_is_one_to_train_with(workdir, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(["doctor", "--workdir", str(workdir), "--config", str(workdir / "config.json"),
              "--config.train.steps=6001"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "a resume would go on from step 6000" in printed
    assert "1 steps to go (train.steps=6001); the config fits" in printed


def test_the_first_training_chooses_data_and_optimizer_but_not_the_network(workdir, capsys):
    def doctor(*more):
        capsys.readouterr()
        words = ["doctor", "--workdir", str(workdir), "--config", str(workdir / "config.json")]
        try:
            main([*words, *more])
        except SystemExit:
            return capsys.readouterr().out
        return capsys.readouterr().out

    chosen = ("--config.optimizer.learning_rate=1e-5", "--config.data.batch_size=32",
              "--config.data.source=folder", "--config.data.options.size=8")  # fmt: skip
    assert "the config fits" in doctor(*chosen)
    for override in ("--config.network.nf=32", "--config.sde.beta_max=10.0"):
        assert "a resume from step 6000 would be refused" in doctor(override)
