"""``sdejax fit-dequantiser`` as users type it, run in this process."""

import numpy as np
from command import fails

from sdejax.cli import main


def test_noise_is_fitted_and_evaluated_with(digits, points, tmp_path, capsys):
    out = tmp_path / "noise.npz"
    fit = ["fit-dequantiser", "--workdir", digits, "--iterations=6", "--batch=8", "--held-out=16"]
    main([str(word) for word in [*fit, "--layers=2", "--features=4", "--out", out]])
    text = capsys.readouterr().out
    assert "noise.npz: variational bound on 16 held-out examples" in text
    command = ["likelihood", "--workdir", digits, "--method=elbo", "--draws=2", "--num=4"]
    command = [str(word) for word in [*command, "--out", tmp_path / "rows.npz"]]
    main([*command, "--dequantiser", str(out)])
    assert "variational dequantisation" in capsys.readouterr().out
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as file:
        assert np.all(np.isfinite(file["log_p"]))
    assert "uniform now" in fails(capsys, *command)  # another evaluation of the same name
    assert "--held-out: got 0" in fails(capsys, *fit, "--held-out=0")
    assert "real-valued" in fails(capsys, *["fit-dequantiser", "--workdir", points])
