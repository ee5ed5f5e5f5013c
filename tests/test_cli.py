"""The command line itself: help, version, and the package as a module."""

import re
import subprocess
import sys

import pytest

from sdejax.cli import main, parser


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    (commands,) = [a for a in parser()._actions if a.dest == "command"]
    flags = [f for a in commands.choices[command]._actions for f in a.option_strings]
    assert len(flags) > 6
    assert all(flag in text for flag in flags)
    assert "--config.KEY=VALUE" in text or command == "sample"


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"sdejax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "sdejax", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fit-solver" in found.stdout
