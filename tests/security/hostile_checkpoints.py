"""Hostile checkpoints: a good workdir, and what is changed in it so that its manifest agrees."""

import json
import os
import pickle
import shutil

import jax
import tensorstore as ts
from etils import epath
from hostile_data import Evil

from sdejax.build import build_model, default_config, init_params
from sdejax.data.scaling import Scaling
from sdejax.tables import component
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import write_manifest


def good_workdir(workdir):
    """A workdir of one step, of a network small enough to look at."""
    config = default_config()
    config.network = component("network", "mlp", hidden=(4,), time_features=4)
    plain = json.loads(json.dumps(config.to_dict()))
    params = init_params(jax.random.key(0), build_model(plain, (2,), None))
    data = {"scaling": Scaling().to_json(), "next_step": 1}
    meta = {"config": plain, "data": data, "event_shape": [2], "num_classes": None}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(1, {"ema_params": params, "params": params}, meta)


def sealed(change):
    """A change inside the step, with a manifest made anew."""

    def make(step, mark):
        change(step, mark)
        write_manifest(epath.Path(step))

    return make


def metadata(raw):
    return sealed(
        lambda step, mark: (step / "meta" / "metadata").write_bytes(
            raw(mark) if callable(raw) else raw
        )
    )


def says(path, value):
    """One entry of the JSON part with another value."""

    def change(step, mark):
        file = step / "meta" / "metadata"
        payload = json.loads(file.read_text())
        *parents, last = path.split(".")
        node = payload
        for part in parents:
            node = node[part]
        node[last] = value
        file.write_text(json.dumps(payload))

    return sealed(change)


def header(**changes):
    """Another header of an array."""

    def change(step, mark):
        base = {"driver": "ocdbt", "base": f"file://{step / 'state'}/"}
        store = ts.KvStore.open(base).result()
        name = next(k for k in store.list().result() if k.endswith(b"kernel/.zarray"))
        old = json.loads(store.read(name).result().value)
        store.write(name, json.dumps(old | changes).encode()).result()

    return sealed(change)


def manifest(name):
    def make(step, mark):
        entry = {"size": 1, "sha256": "0" * 64}
        file = step / "manifest.json"
        saved = json.loads(file.read_text())
        saved["files"][name] = entry
        file.write_text(json.dumps(saved))

    return make


def linked(name, target):
    """A link in place of a file or folder that is moved out of the step."""

    def make(step, mark):
        outside = step.parents[2] / "outside"
        shutil.move(step / name, outside)
        (step / name).symlink_to(outside if target is None else target)

    return make


def write(name, data):
    return lambda step, mark: (step / name).write_bytes(data)


DEEP = b'{"a":' * 10**6
CHECKPOINTS = {
    "metadata is a pickle": metadata(lambda mark: pickle.dumps(Evil(mark))),
    "metadata is YAML that calls": metadata(b"!!python/object/apply:os.system ['true']"),
    "metadata without end": metadata(DEEP),
    "metadata of 20 MB": metadata(b" " * 20_000_000 + b"{}"),
    "metadata is a list": metadata(b"[]"),
    "metadata has no leaves": metadata(b'{"score": null, "meta": {}}'),
    "a leaf of another shape": says("leaves.params/x", [[2**40, 2**40], "float32"]),
    "leaves are text": says("leaves", "abc"),
    "a score that is none": says("score", "1"),
    "a width of 10^12": says("meta.config.network.hidden", [10**12]),
    "another width": says("meta.config.network.hidden", [5]),
    "a process called os.system": says("meta.config.sde.name", "os.system"),
    "YAML for a name": says("meta.config.network.name", "!!python/name:os.system"),
    "an option that is none": says("meta.config.network.parent", {"a": 1}),
    "not a number": says("meta.config.sde.sigma_max", float("nan")),
    "no config": says("meta.config", None),
    "an event of 2**60": says("meta.event_shape", [2**60]),
    "a scale of 0": says("meta.data.scaling.scale", [0.0]),
    "a negative step": says("meta.data.next_step", -1),
    "an array of 40 GB": header(shape=[100_000, 100_000]),
    "an array beyond any": header(shape=[2**60, 4]),
    "chunks of terabytes": header(chunks=[2**20, 2**20]),
    "an array of objects": header(dtype="|O"),
    "a packing of its own": header(compressor={"id": "pickle"}),
    "a manifest with a way up": manifest("../../../outside"),
    "a manifest with an absolute name": manifest("/etc/passwd"),
    "a manifest without end": write("manifest.json", DEEP),
    "a manifest that is a list": write("manifest.json", b"[1]"),
    "a manifest that is a pickle": write("manifest.json", pickle.dumps(1)),
    "a file that is not listed": write("state/more", b"x"),
    "a link to a file": linked("state/_METADATA", None),
    "a link to a folder": linked("state/d", None),
    "a link that goes round": linked("state/d", "."),
    "a pipe": lambda step, mark: os.mkfifo(step / "state" / "pipe"),
    "JSON of the library without end": sealed(write("state/_METADATA", DEEP)),
}


def folder(name, *files):
    def make(checkpoints):
        (checkpoints / name).mkdir()
        for file in files:
            (checkpoints / name / file).write_text("x")

    return make


COMMITTED = "commit_success.txt"
ODD_STEPS = {
    "an empty one": folder("8"),
    "a sign": folder("+8", COMMITTED),
    "another script": folder("٣", COMMITTED),
    "a power": folder("²", COMMITTED),
    "leading zeros": folder("008", COMMITTED),
    "a space": folder(" 8", COMMITTED),
    "a file": lambda checkpoints: (checkpoints / "9").write_text("x"),
    "a fraction": folder("8.5", COMMITTED),
    "beyond any": folder("9" * 40),
}
