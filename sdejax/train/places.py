"""The place of a process among those that train together, from flags or from the environment.

A process needs three things: where process 0 listens, how many there are, and which one it is.

    Slurm        SLURM_STEP_NODELIST, SLURM_STEP_NUM_TASKS, SLURM_PROCID, set by srun for each task
    TPU          TPU_PROCESS_ADDRESSES or TPU_WORKER_HOSTNAMES, TPU_WORKER_ID, MEGASCALE_*; a TPU
                 VM without them asks its metadata server, which JAX does
    Kubernetes   JOB_COMPLETION_INDEX of an indexed job; JAX asks the cluster for the rest, or
                 --coordinator and --num-processes say it

One task, one worker, a pod of another kind: a process on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

TPU_PORT = 8482
DEALT_OUT = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Place(NamedTuple):
    """The place of this process among all; what is None, JAX finds out.

    Attributes:
        found: what told, for the reader.
        coordinator: "host:port" of process 0.
        processes: how many there are.
        process: number of this one.
        devices: local devices for this process alone; all if None.
    """

    found: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    devices: tuple[int, ...] | None = None


def choose_place(
    environ: Mapping[str, str],
    *,
    distributed: bool | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    kubernetes: bool = False,
) -> Place | None:
    """The flags of ``sdejax train`` and the environment together.

    Args:
        environ: the environment variables, after JAX was imported.
        distributed: True: the environment has to tell; False: it is not asked; None: it may.
        coordinator: "host:port" of process 0.
        num_processes, process_id: with a coordinator; what is left out comes from the environment.
        kubernetes: whether the package ``kubernetes`` is there, with which JAX asks the cluster.

    Returns:
        The place; None for a process on its own.

    Raises:
        ValueError: flags that contradict each other or leave something out; nothing found; an
            indexed Kubernetes job that does not say how many pods there are.
    """
    given = {"--num-processes": num_processes, "--process-id": process_id}
    named = next((name for name, value in given.items() if value is not None), None)
    if distributed is False:
        if coordinator or named:
            raise ValueError(f"--no-distributed with {named or '--coordinator'}: give one of them")
        return None
    if coordinator is None:
        if named is not None:
            raise ValueError(
                f"{named}: got {given[named]} without --coordinator; add --coordinator HOST:PORT"
            )
        found = _slurm(environ) or _tpu(environ) or _kubernetes(environ, kubernetes)
        if distributed and found is None:
            raise ValueError(
                "--distributed: found no Slurm step, TPU pod or indexed Kubernetes job; give "
                "--coordinator, --num-processes and --process-id"
            )
        return None if found is None or found.processes == 1 else found
    return _checked(_with_coordinator(environ, coordinator, num_processes, process_id))


def _with_coordinator(
    environ: Mapping[str, str], coordinator: str, count: int | None, index: int | None
) -> Place:
    """Flags first; what they leave out, from the environment."""
    place = _slurm(environ) or _tpu(environ) or Place("flags")
    pod = environ.get("JOB_COMPLETION_INDEX")
    if place.process is None and pod is not None:
        place = Place("Kubernetes", process=int(pod))
    if count is not None and index is not None:
        place = Place("flags", devices=place.devices)
    count = place.processes if count is None else count
    index = place.process if index is None else index
    for flag, value in (("--num-processes", count), ("--process-id", index)):
        if value is None:
            raise ValueError(f"{flag}: missing beside --coordinator {coordinator}; add {flag} N")
    return place._replace(coordinator=coordinator, processes=count, process=index)


def _checked(place: Place) -> Place | None:
    assert place.coordinator is not None
    assert place.processes is not None
    assert place.process is not None
    host, _, port = place.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"--coordinator: got {place.coordinator!r}, expected HOST:PORT of process 0"
        )
    if place.processes < 1:
        raise ValueError(f"--num-processes: got {place.processes}, expected at least 1")
    if not 0 <= place.process < place.processes:
        raise ValueError(
            f"--process-id: got {place.process}, expected 0 to {place.processes - 1}, "
            f"as --num-processes is {place.processes}"
        )
    return None if place.processes == 1 else place


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """A task that srun started. A batch script, or a shell with an allocation, is none."""
    nodes, index = environ.get("SLURM_STEP_NODELIST"), environ.get("SLURM_PROCID")
    count = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS")
    if not nodes or not index or not count:
        return None
    port = 61440 + int(environ.get("SLURM_JOB_ID", "0")) % 4096
    return Place(
        "Slurm",
        f"{first_host(nodes)}:{environ.get('JAX_COORDINATOR_PORT', port)}",
        int(count),
        int(index),
        _share_of_node(environ, int(count)),
    )


def _share_of_node(environ: Mapping[str, str], count: int) -> tuple[int, ...] | None:
    """One device for each task of a node; all where Slurm has dealt them out, or for one task."""
    one_a_node = count == int(environ.get("SLURM_STEP_NUM_NODES", count))
    dealt_out = any(name in environ and "," not in environ[name] for name in DEALT_OUT)
    if one_a_node or dealt_out or "SLURM_LOCALID" not in environ:
        return None
    return (int(environ["SLURM_LOCALID"]),)


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: "n[003-007,9],m" has n003.

    Args:
        nodes: as in SLURM_STEP_NODELIST.
    """
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def _tpu(environ: Mapping[str, str]) -> Place | None:
    """A worker of a TPU slice, or of several slices."""
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if not workers:
        # JAX sets the first where it finds TPU chips, the second where it finds none.
        virtual_machine = environ.get("TPU_ML_PLATFORM") == "JAX"
        return Place("TPU VM") if virtual_machine and "TPU_SKIP_MDS_QUERY" not in environ else None
    names = workers.split(",")
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    index = int(environ.get("TPU_WORKER_ID") or 0)
    index += len(names) * int(environ.get("MEGASCALE_SLICE_ID") or 0)
    host = (environ.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]).split(":")[0]
    port = environ.get("JAX_COORDINATOR_PORT", TPU_PORT)
    return Place("TPU pod", f"{host}:{port}", slices * len(names), index)


def _kubernetes(environ: Mapping[str, str], installed: bool) -> Place | None:
    """A pod of an indexed job; how many there are is known to the cluster alone."""
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    if not installed:
        raise ValueError(
            "an indexed Kubernetes job: give --coordinator and --num-processes, or install "
            "jax[k8s]; --no-distributed lets each pod run on its own"
        )
    return Place("Kubernetes")
