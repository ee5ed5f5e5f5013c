"""Headers of arrays are compared with the table of leaves before the library believes them.

The two worst would end this process with no exception to catch, so they run in a child as well.
"""

import json
import subprocess
import sys
import textwrap

import pytest
import tensorstore as ts
from etils import epath
from saved import shapes

from sdejax.train.catalog import checked_payload
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError, write_manifest
from sdejax.train.reader import restore_params
from sdejax.train.stored_arrays import require_arrays


def tamper(directory, step=2, name="params/w", **changes):
    """Changes the header of an array, and makes the manifest agree."""
    state = directory / str(step) / "state"
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
    header = json.loads(store.read(f"{name}/.zarray").result().value)
    store.write(f"{name}/.zarray", json.dumps(header | changes).encode()).result()
    write_manifest(epath.Path(directory) / str(step))


HEADERS = {
    "a shape of 40 GB": {"shape": [100_000, 100_000]},
    "a shape beyond any": {"shape": [2**60, 32]},
    "chunks of 4 TB": {"chunks": [2**20, 2**20]},
    "another rank": {"shape": [1024], "chunks": [1024]},
    "a negative shape": {"shape": [-32, 32]},
    "another type": {"dtype": "<f8"},
    "objects": {"dtype": "|O"},
    "an unknown packing": {"compressor": {"id": "pickle"}},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_differs_is_refused_before_anything_is_made(copied, name):
    tamper(copied, **HEADERS[name])
    message = r"2/state: (cannot be read|the headers of the arrays are not as they were saved)"
    with pytest.raises(CheckpointError, match=message) as error:
        restore_params(copied, 2, which="params")
    assert len(str(error.value).splitlines()) <= 20
    with Checkpoints(copied) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(shapes(), 2)
    assert float(restore_params(copied, 1, which="params")["w"][0, 0]) == 1


def rewrite(directory, change):
    """Changes the JSON part, and makes the manifest agree."""
    path = directory / "2" / "meta" / "metadata"
    payload = json.loads(path.read_text())
    change(payload)
    path.write_text(json.dumps(payload))
    write_manifest(epath.Path(directory / "2"))


def test_a_table_and_headers_that_agree_on_what_is_not_there(copied):
    """A shape bomb that contradicts nothing but the bytes on disk."""
    tamper(copied, shape=[2**20, 2**20])
    rewrite(copied, lambda p: p["leaves"].update({"params/w": [[2**20, 2**20], "float32"]}))
    with pytest.raises(CheckpointError, match=r"claims 4398046511108 bytes in \d+ bytes on disk"):
        restore_params(copied, 2, which="params")


def test_arrays_that_one_side_alone_knows(copied):
    rewrite(copied, lambda p: p["leaves"].update({"params/v": [[3], "float32"]}))
    with pytest.raises(CheckpointError, match=r"params/v: saved .*, found nothing"):
        checked_payload(epath.Path(copied) / "2")
    rewrite(copied, lambda p: [p["leaves"].pop(name) for name in ("params/v", "n")])
    with pytest.raises(CheckpointError, match=r"n: saved nothing, found int32\[\] in chunks"):
        checked_payload(epath.Path(copied) / "2")
    with pytest.raises(CheckpointError, match="cannot be read"):
        require_arrays(epath.Path(copied) / "2", {"n": [[], "no type"]})


@pytest.mark.parametrize("name", ["_METADATA", "_sharding", "array_metadatas/process_0"])
def test_json_of_the_library_has_an_end(copied, name):
    (copied / "2" / "state" / name).write_bytes(b'{"a":' * 10**6)
    write_manifest(epath.Path(copied / "2"))
    with pytest.raises(CheckpointError, match=r"state.*: cannot be read as JSON"):
        restore_params(copied, 2, which="params")


def test_the_bombs_would_have_ended_the_process(copied):
    """What is refused above is real: the library alone does not come back from it."""
    tamper(copied, shape=[2**60, 32])
    code = f"""
        import resource, tensorstore as ts
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        base = "file://{copied / "2" / "state"}/"
        store = {{"driver": "ocdbt", "base": base, "path": "params/w/"}}
        array = ts.open({{"driver": "zarr", "kvstore": store}}, open=True).result()
        try:
            array.read().result()
        except Exception:
            pass
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode < 0, "it raises now: the check may have become unnecessary"
