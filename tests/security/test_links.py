"""What a run writes stays in its workdir: links that others left there are not written through."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sdejax.evaluate import load_rows, save_rows
from sdejax.evaluator import Row
from sdejax.run import WRITTEN, train
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError
from sdejax.train.logs import Logs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_config import get_config

KEPT = "this stays"


@pytest.fixture
def outside(tmp_path):
    file = tmp_path / "outside"
    file.write_text(KEPT)
    yield file
    assert file.read_text() == KEPT


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_run_refuses_links_among_its_files(workdir, outside, name):
    (workdir / name).symlink_to(outside)
    assert name in WRITTEN
    with pytest.raises(ValueError, match=rf"{name}: a link to .*outside"):
        train(get_config().to_dict(), workdir)


def test_the_lock_is_no_link(workdir, outside):
    (workdir / "checkpoints" / "lock").symlink_to(outside)
    with pytest.raises(CheckpointError, match="lock"):
        Checkpoints(workdir / "checkpoints")


def test_metrics_and_rows_replace_a_link(workdir, outside):
    (workdir / "metrics.jsonl").write_text('{"step": 1}\n{"step": 9}\n' + '{"step":' * 9999)
    (workdir / "metrics.part").symlink_to(outside)
    with Logs(workdir, step=1):
        pass
    assert (workdir / "metrics.jsonl").read_text() == '{"step": 1}\n'
    (workdir / ".rows.npz.half").symlink_to(outside)
    save_rows(workdir / "rows.npz", Row(*np.zeros((5, 3))), {})
    assert load_rows(workdir / "rows.npz", {}).log_p.shape == (3,)
