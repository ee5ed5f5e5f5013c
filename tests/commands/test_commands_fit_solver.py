"""``sdejax fit-solver`` as users type it, run in this process."""

import numpy as np
from command import fails, sample

from sdejax.cli import main


def test_a_solver_is_fitted_and_sampled_with(points, tmp_path, capsys):
    out = tmp_path / "few.npz"
    fit = ["fit-solver", "--workdir", points, "--evaluations=3", "--pairs=16", "--iterations=4"]
    main([str(word) for word in [*fit, "--batch=4", "--out", out]])
    assert "few.npz: 3 evaluations; loss on held-out noise" in capsys.readouterr().out
    x, nfe = sample(points, tmp_path / "x.npz", "--num=8", f"--solver={out}")
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(nfe, np.full(8, 3))
    command = ["sample", "--workdir", points, "--out", tmp_path / "y.npz", f"--solver={out}"]
    assert "leave out --sampler" in fails(capsys, *command, "--steps=3")
    out.write_bytes(b"no solver")
    assert "few.npz: no solver" in fails(capsys, *command)
