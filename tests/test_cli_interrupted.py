"""``sdejax train`` as a real process that is killed, or asked to stop, and started again."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from command import CONFIG, compiled_once, steps_of, train  # noqa: F401

from sdejax.train.checkpoint import restore_params

LIMIT = 200  # seconds that a process may take on a busy machine
ENDLESS = ("--config.train.eval_every=100000", "--config.train.sample_every=0")


def start(workdir, *more):
    workdir.mkdir(parents=True, exist_ok=True)
    command = ["train", "--config", CONFIG, "--workdir", str(workdir), *ENDLESS, *more]
    return subprocess.Popen(
        [sys.executable, "-c", "from sdejax.cli import main; main()", *command],
        env=os.environ | {"TQDM_MININTERVAL": "0"},
        stdout=subprocess.DEVNULL,
        stderr=(workdir / "stderr").open("w"),
    )


def wait_for(process, what):
    end = time.monotonic() + LIMIT
    while not what():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def resumes_to_the_same_bits(workdir, mode, tmp_path):
    """After an interruption, ten more steps give what a run without one gives."""
    steps = steps_of(workdir)[-1] + 10
    options = (*ENDLESS, f"--config.parallel={mode}", f"--config.train.steps={steps}")
    train(workdir, *options)
    train(tmp_path / "straight", *options)
    for which in ("params", "ema_params", "opt_state"):
        one, other = (
            restore_params(folder / "checkpoints", steps, which=which)
            for folder in (workdir, tmp_path / "straight")
        )
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, mode):
    workdir = tmp_path / "run"
    process = start(workdir, f"--config.parallel={mode}", "--config.train.steps=1000000")
    try:
        wait_for(process, lambda: (workdir / "checkpoints").exists() and steps_of(workdir))
        process.send_signal(signal.SIGKILL)
        assert process.wait(LIMIT) == -signal.SIGKILL
    finally:
        process.kill()
    resumes_to_the_same_bits(workdir, mode, tmp_path)


@pytest.mark.parametrize(
    "when", ["the first compilation", pytest.param("training", marks=pytest.mark.slow)]
)
def test_sigterm_saves_says_so_and_exits_143(tmp_path, when):
    workdir = tmp_path / "run"
    never = "--config.train.checkpoint_every=100000000"
    process = start(workdir, "--config.train.steps=1000000", never)
    try:
        if when == "training":
            metrics = workdir / "metrics.jsonl"
            wait_for(process, lambda: metrics.exists() and metrics.stat().st_size)
        else:  # the bar is shown just before the first step
            wait_for(process, lambda: "training" in (workdir / "stderr").read_text())
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 143
    finally:
        process.kill()
    (step,) = steps_of(workdir)
    error = (workdir / "stderr").read_text()
    assert f"sdejax: stopped by SIGTERM after step {step}, which is saved; run the same" in error
    assert "Traceback" not in error
    if when == "training":
        resumes_to_the_same_bits(workdir, "pmap", tmp_path)
