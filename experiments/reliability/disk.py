"""A full disk: the error comes by the next save, nothing stays behind, and saving goes on later.

Where it may be mounted the disk is a small tmpfs in a namespace of its own; elsewhere the size of
the files that the worker may write is limited. Each try leaves another amount of room, so that the
disk is full in the middle of the arrays, of the metadata, of the manifest or of the commit marker.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from experiments.reliability.base import LIMIT, ROOT, Outcome, environment

PRIVATE = ("unshare", "--user", "--map-root-user", "--mount")
ROOM = 4 * 2**20  # bytes of the disk


def scenario(tries: int, folder: Path) -> Outcome:
    """Fill the disk up, save, make room, save again."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={ROOM} tmpfs {shlex.quote(str(disk))}"
    kind = "tmpfs" if _mounts(mount) else "limit"
    worker = [sys.executable, "-m", "experiments.reliability.full", kind, str(disk), str(tries)]
    words = worker
    if kind == "tmpfs":
        words = [*PRIVATE, "sh", "-c", f"{mount} && exec {shlex.join(worker)}"]
    tqdm.write("full disk: one worker for all tries")
    done = subprocess.run(
        words, cwd=ROOT, env=environment(folder / "cache"), capture_output=True, text=True,
        timeout=LIMIT + 5 * tries,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the worker ended with code {done.returncode}: {done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Outcome(
        "full disk", tries, found["lost"], found["unreadable"], found["wrong"], found["seconds"],
        f"{'a tmpfs of 4 MiB' if kind == 'tmpfs' else 'a limit on the size of files'}; "
        f"{found['failed']} saves failed, each by the next call ({found['late']} of them after the "
        f"commit), {found['fitted']} just fitted; "
        f"longest: until the error{''.join('; ' + line for line in found['complaints'])}",
    )  # fmt: skip


def _mounts(mount: str) -> bool:
    """Whether a tmpfs may be mounted here in a namespace of one's own."""
    if shutil.which(PRIVATE[0]) is None:
        return False
    return subprocess.run([*PRIVATE, "sh", "-c", mount], capture_output=True).returncode == 0
