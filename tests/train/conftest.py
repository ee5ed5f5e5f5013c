"""Checkpoint directories that several test files read or damage."""

import shutil
from pathlib import Path

import pytest
from saved import save_all


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A directory with steps 1 and 2; tests that damage it take a copy."""
    directory = tmp_path_factory.mktemp("two_steps")
    save_all(directory, [2.0, 1.0])
    return directory


@pytest.fixture
def copied(two_steps, tmp_path):
    return Path(shutil.copytree(two_steps, tmp_path / "copy"))
