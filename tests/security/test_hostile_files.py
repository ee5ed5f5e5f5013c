"""Files made to run code, end the process, fill the memory or lead elsewhere: each is one error.

All are opened in one child process with limited memory, which tells what came of each. A pickle
that is run leaves a marker; a bomb that goes off leaves no line.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_checkpoints import CHECKPOINTS, ODD_STEPS, good_workdir
from hostile_data import DATA, Evil

CASES = (
    [(reader, name) for reader, files in DATA.items() for name in files]
    + [("checkpoint", name) for name in CHECKPOINTS]
    + [("step", name) for name in ODD_STEPS]
)
PEAK = 2 * 2**30  # bytes of the child


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() or path.is_symlink()
        else path.stat().st_size
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every file, opened by the child: (reader, name) -> path, error, value, seconds; and peak."""
    top = tmp_path_factory.mktemp("hostile")
    mark, good = top / "mark", top / "good"
    good_workdir(good)
    files = []
    for number, (reader, name) in enumerate(CASES):
        folder = top / f"{number:03}"
        if reader in DATA:
            folder.mkdir()
            path = DATA[reader][name](folder, mark)
        else:
            path = Path(shutil.copytree(good, folder / "run"))
            if reader == "step":
                ODD_STEPS[name](path / "checkpoints")
            else:
                CHECKPOINTS[name](path / "checkpoints" / "1", mark)
        files.append((f"{reader}: {name}", reader, str(path)))
    (top / "list.json").write_text(json.dumps({"workdir": str(good), "files": files}))
    before = contents(top)
    child = Path(__file__).with_name("open_files.py")
    # One device: the child's address space is limited, and threads take room in it.
    environment = {**os.environ, "XLA_FLAGS": "", "PJRT_NPROC": "2"}
    with (top.parent / "hostile.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, str(child), str(top / "list.json")],
            stdout=subprocess.PIPE, stderr=log, text=True, timeout=240, env=environment,
        )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line[0] in "[{"]
    found = {line[0]: line[1:] for line in lines if isinstance(line, list)}
    usage = next((line for line in lines if isinstance(line, dict)), None)
    said = (top.parent / "hostile.log").read_text()[-2000:]
    after = contents(top)
    paths = {name: path for name, _, path in files}
    return {"found": found, "usage": usage, "code": done.returncode, "said": said, "paths": paths,
            "mark": mark, "before": before, "after": after}  # fmt: skip


def test_there_are_enough_and_the_pickles_are_working_ones(tmp_path):
    assert len(CASES) == len(set(CASES)) > 100
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_no_code_ran_and_the_process_lived(outcomes):
    unopened = [name for name in outcomes["paths"] if name not in outcomes["found"]]
    assert not unopened, f"died at {unopened[0]} ({outcomes['code']}): {outcomes['said']}"
    assert outcomes["code"] == 0
    assert not outcomes["mark"].exists()


def test_nothing_was_written_but_what_a_run_writes(outcomes):
    new = {
        name
        for name in outcomes["after"]
        if outcomes["after"][name] != outcomes["before"].get(name)
    }
    allowed = ("/checkpoints/lock", "/checkpoints/trash", "/checkpoints/damaged")
    assert not [name for name in new if not any(part in name for part in allowed)]


def test_memory_and_time_were_bounded(outcomes):
    assert outcomes["usage"]["peak"] < PEAK
    slow = {name: found[2] for name, found in outcomes["found"].items() if found[2] > 20}
    assert not slow  # seconds, on a busy machine; each takes less than two


@pytest.mark.parametrize("name", [f"{r}: {n}" for r, n in CASES if r != "step"])
def test_a_hostile_file_is_one_clear_error(outcomes, name):
    error, _, _ = outcomes["found"][name]
    assert error is not None, "it was opened"
    kinds, message = error
    assert {"ValueError", "FileNotFoundError"} & set(kinds), error
    assert len(message.splitlines()) <= 20
    assert len(message) < 4000
    path = Path(outcomes["paths"][name])
    assert str(path) in message


@pytest.mark.parametrize("name", ODD_STEPS)
def test_an_odd_name_is_no_step(outcomes, name):
    error, value, _ = outcomes["found"][f"step: {name}"]
    assert (error, value) == (None, 1)
