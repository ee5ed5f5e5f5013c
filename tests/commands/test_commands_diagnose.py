"""``sdejax diagnose`` as users type it, run in this process."""

import argparse

import numpy as np
import pytest

from sdejax.commands import diagnose


def main(words):
    parser = argparse.ArgumentParser()
    diagnose.add(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    args.run(args)


def test_a_run_is_diagnosed(digits, tmp_path, capsys):
    args = ["--num=20", "--levels=3", "--chunk=20"]
    main(["diagnose", "--workdir", digits, "--out", str(tmp_path / "deep" / "d.npz"), *args])
    printed = capsys.readouterr().out
    assert "slope (1)" in printed
    assert "20 examples, averaged weights of step 2" in printed
    with np.load(tmp_path / "deep" / "d.npz", allow_pickle=False) as found:
        assert found["calibration.slope.value"].shape == (3,)
        assert f"{found['residual.scaled.value'][1]:.3g} +-" in printed
    main(["diagnose", "--workdir", digits, "--out", str(tmp_path / "d.png"), *args])
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"


def test_misuse_is_named(digits, tmp_path):
    command = ["diagnose", "--workdir", digits, "--out"]
    with pytest.raises(ValueError, match="--out: got"):
        main([*command, tmp_path / "d.pdf"])
    with pytest.raises(ValueError, match="probes=1; expected at least 2"):
        main([*command, tmp_path / "d.png", "--probes=1", "--num=4"])
