import pytest

from sdejax.train.places import Place, choose_place, first_host

SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "n[03-04]", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
}  # fmt: skip
TPU = {"TPU_WORKER_HOSTNAMES": "10.0.0.2,10.0.0.3", "TPU_WORKER_ID": "1"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
BY_HAND = {"coordinator": "h:1", "num_processes": 4, "process_id": 3}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        (SLURM, Place("Slurm", "n03:61441", 4, 3, (1,))),
        (SLURM | {"SLURM_STEP_NUM_NODES": "4"}, Place("Slurm", "n03:61441", 4, 3)),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "5"}, Place("Slurm", "n03:61441", 4, 3)),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, Place("Slurm", "n03:61441", 4, 3, (1,))),
        (SLURM | {"JAX_COORDINATOR_PORT": "99"}, Place("Slurm", "n03:99", 4, 3, (1,))),
        (SLURM | TPU, Place("Slurm", "n03:61441", 4, 3, (1,))),
        (TPU, Place("TPU pod", "10.0.0.2:8482", 2, 1)),
        (TPU | POD | {"JOB_COMPLETION_INDEX": "1"}, Place("TPU pod", "10.0.0.2:8482", 2, 1)),
        (TPU | {"TPU_PROCESS_ADDRESSES": "a:8471,b:8471"}, Place("TPU pod", "a:8482", 2, 1)),
        (
            TPU | {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2",
                   "MEGASCALE_COORDINATOR_ADDRESS": "m:8080"},
            Place("TPU pod", "m:8482", 6, 5),
        ),
        ({"TPU_ML_PLATFORM": "JAX"}, Place("TPU VM")),
    ],
)  # fmt: skip
def test_the_environment_tells(environ, place):
    assert choose_place(environ) == place
    assert choose_place(environ, distributed=True) == place
    assert choose_place(environ, distributed=False) is None


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # the batch script itself
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_ID": "0", "TPU_ML_PLATFORM": "JAX"},  # Colab
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"},
        {"TPU_SKIP_MDS_QUERY": "1"},
        POD,
        {"JOB_COMPLETION_INDEX": "1"},
    ],
)
def test_a_process_on_its_own(environ):
    assert choose_place(environ, kubernetes=True) is None


def test_an_indexed_job_has_to_say_how_many_there_are():
    environ = POD | {"JOB_COMPLETION_INDEX": "2"}
    assert choose_place(environ, kubernetes=True) == Place("Kubernetes")
    with pytest.raises(ValueError, match=r"--num-processes, or install jax\[k8s\]; --no-distr"):
        choose_place(environ)
    assert choose_place(environ, coordinator="train-0.train:8476", num_processes=4) == Place(
        "Kubernetes", "train-0.train:8476", 4, 2
    )


def test_flags_come_before_the_environment():
    assert choose_place({}, **BY_HAND) == Place("flags", "h:1", 4, 3)
    assert choose_place(TPU, **BY_HAND) == Place("flags", "h:1", 4, 3)
    assert choose_place(SLURM, **BY_HAND) == Place("flags", "h:1", 4, 3, (1,))
    assert choose_place(SLURM, coordinator="ib0:7") == Place("Slurm", "ib0:7", 4, 3, (1,))
    assert choose_place({}, coordinator="h:1", num_processes=1, process_id=0) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"distributed": True}, "^--distributed: found no Slurm step, TPU pod"),
        ({"num_processes": 2}, "^--num-processes: got 2 without --coordinator"),
        ({"process_id": 0}, "^--process-id: got 0 without --coordinator"),
        ({"coordinator": "h:1"}, "^--num-processes: missing beside --coordinator h:1"),
        ({"coordinator": "h:1", "num_processes": 2}, "^--process-id: missing"),
        (BY_HAND | {"coordinator": "h"}, "^--coordinator: got 'h', expected HOST:PORT"),
        (BY_HAND | {"coordinator": "h:0"}, "^--coordinator: got 'h:0'"),
        (BY_HAND | {"coordinator": ":80"}, "^--coordinator: got ':80'"),
        (BY_HAND | {"num_processes": 0}, "^--num-processes: got 0, expected at least 1"),
        (BY_HAND | {"process_id": 4}, "^--process-id: got 4, expected 0 to 3"),
        (BY_HAND | {"process_id": -1}, "^--process-id: got -1"),
        (BY_HAND | {"distributed": False}, "^--no-distributed with --num-processes"),
        ({"coordinator": "h:1", "distributed": False}, "^--no-distributed with --coordinator"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        choose_place({}, **flags)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,m2", "n1"),
        ("n[003-007,9],m", "n003"),
        ("n[5,7]", "n5"),
        ("n[5]", "n5"),
        ("gpu-a[1-2]-ib,x", "gpu-a1-ib"),
        ("r[0-1]n[2,4-9]", "r0n2"),
    ],
)
def test_the_first_of_slurms_nodes(nodes, first):
    assert first_host(nodes) == first
