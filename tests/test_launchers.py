"""The launchers in experiments/, with stand-ins for sdejax, srun, scontrol and gcloud."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from sdejax.cli import parser
from sdejax.train.places import Place, choose_place

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
ODD = "--config.data.path=a b's"  # what quoting has to survive
# Writes its arguments, one a line, to the file told-I of process I, then does as it is told.
SDEJAX = """\
words=("$@"); id=0
while (($#)); do if [[ $1 == --process-id ]]; then id=$2; fi; shift; done
printf '%s\\n' "${words[@]}" > "told-$id"
trap 'echo TERM >> "told-$id"; exit 143' TERM
BEHAVIOUR
"""


@pytest.fixture
def start(tmp_path):
    """``start(script, *arguments, name=body ...)``: with stand-ins of these names."""
    started = []

    def start(script, *arguments, grace="1", **stand_ins):
        tools = tmp_path / "tools"
        tools.mkdir()
        for name, body in stand_ins.items():
            (tools / name).write_text(f"#!/usr/bin/env bash\n{body}")
            (tools / name).chmod(0o755)
        started.append(
            subprocess.Popen(
                [FOLDER / script, *arguments],
                cwd=tmp_path,
                env=os.environ
                | {"PATH": f"{tools}:{os.environ['PATH']}", "GRACE": grace, "SLURM_JOB_ID": "77"},
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    # A shell cannot trap what its parent ignores, as a job in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield start
    signal.signal(signal.SIGINT, before)
    for process in started:
        # With its children, which hold the pipe too: without them nobody would wait for its end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def wait_for(*paths):
    end = time.monotonic() + 20
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < end
        time.sleep(0.02)


def behaving(*lines):
    return SDEJAX.replace("BEHAVIOUR", "\n".join(lines))


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh"), key=str), ids=lambda path: path.name)
def test_launchers_parse_and_say_how_to_use_them(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    found = subprocess.run([script], capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert f"{script.name} " in found.stderr


def test_processes_are_given_their_places(start, tmp_path):
    process = start("train_processes.sh", "3", "c.py", "w", ODD, sdejax=behaving("exit 0"))
    assert process.wait(20) == 0
    for index in range(3):
        words = (tmp_path / f"told-{index}").read_text().splitlines()
        args, rest = parser().parse_known_args(words)
        place = choose_place(
            {}, coordinator=args.coordinator, num_processes=args.num_processes,
            process_id=args.process_id,
        )  # fmt: skip
        assert place == Place("flags", "127.0.0.1:12355", 3, index)
        assert (args.config, str(args.workdir), rest) == ("c.py", "w", [ODD])


@pytest.mark.parametrize(
    ("death", "code"), [("exit 3", 3), ("kill -KILL $$", 137), ("kill -ABRT $$", 134)]
)
def test_when_one_dies_all_end(start, tmp_path, death, code):
    sleeper = "echo $$ > pid; trap '' TERM; exec sleep 600"
    process = start(
        "train_processes.sh", "2", "c.py", "w",
        sdejax=behaving(f"if [[ $id == 0 ]]; then {sleeper}; fi", "sleep 0.2", death),
    )  # fmt: skip
    assert process.wait(20) == code
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_survivor_that_ends_by_itself_is_not_killed(start, tmp_path):
    patient = "sleep 1; echo saved >> told-0; exit 1"
    process = start(
        "train_processes.sh", "2", "c.py", "w", grace="20",
        sdejax=behaving(f"if [[ $id == 0 ]]; then {patient}; fi", "exit 5"),
    )  # fmt: skip
    assert process.wait(20) == 5
    assert "saved" in (tmp_path / "told-0").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_reaches_all_and_the_code_is_143(start, tmp_path, number):
    process = start(
        "train_processes.sh", "2", "c.py", "w",
        sdejax=behaving("echo yes > ready-$id", "while true; do sleep 0.05; done"),
    )  # fmt: skip
    told = [tmp_path / f"told-{index}" for index in range(2)]
    wait_for(*(tmp_path / f"ready-{index}" for index in range(2)))  # the traps are set
    process.send_signal(number)
    assert process.wait(20) == 143
    assert all("TERM" in path.read_text() for path in told)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (134, False), (143, True)])
def test_slurm_queues_again_when_preempted(start, tmp_path, code, requeued):
    process = start(
        "train_slurm.sh", "c.py", "w", "--heartbeat", "60", ODD,
        srun=behaving(f"exit {code}"),
        scontrol='echo "$@" > requeued',
    )  # fmt: skip
    assert process.wait(20) == code
    words = (tmp_path / "told-0").read_text().splitlines()
    args, rest = parser().parse_known_args(words[words.index("sdejax") + 1 :])
    assert (args.config, str(args.workdir), args.heartbeat) == ("c.py", "w", 60)
    assert (args.distributed, rest) == (True, [ODD])
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 77\n"


def test_slurm_waits_for_the_processes_to_save(start, tmp_path):
    process = start(
        "train_slurm.sh", "c.py", "w",
        srun=behaving("sleep 1", "touch saved", "exit 143"), scontrol="exit 0",
    )  # fmt: skip
    wait_for(tmp_path / "told-0")
    process.send_signal(signal.SIGTERM)  # to the batch script alone
    assert process.wait(20) == 143
    assert (tmp_path / "saved").exists()


def test_a_tpu_pod_gets_the_words_unchanged(start, tmp_path):
    process = start(
        "train_tpu_pod.sh", "pod", "zone", "c d.py", "w", ODD,
        gcloud=r"""printf '%s\n' "$@" > words""",
    )  # fmt: skip
    assert process.wait(20) == 0
    *words, command = (tmp_path / "words").read_text().splitlines()
    assert words == [
        "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone", "zone", "--worker=all", "--command",
    ]  # fmt: skip
    home = tmp_path / "sdejax" / ".venv" / "bin"
    home.mkdir(parents=True)
    (home / "sdejax").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" > told\n')
    (home / "sdejax").chmod(0o755)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "sdejax" / "told").read_text().splitlines() == [
        "train", "--distributed", "--config", "c d.py", "--workdir", "w", ODD,
    ]  # fmt: skip


def test_the_pods_of_kubernetes_find_each_other():
    service, job = yaml.safe_load_all((FOLDER / "train_kubernetes.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert (spec["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never")
    (container,) = pod["containers"]
    words = [*container["command"], *container["args"]]
    args, rest = parser().parse_known_args(words[1:])
    assert rest == []
    host = f"{name}-0.{pod['subdomain']}"
    place = choose_place(
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
        coordinator=args.coordinator, num_processes=args.num_processes,
    )  # fmt: skip
    assert place == Place("Kubernetes", f"{host}:8476", 2, 1)
    assert spec["completions"] == spec["parallelism"] == args.num_processes
    assert pod["terminationGracePeriodSeconds"] > args.heartbeat
    rules = spec["podFailurePolicy"]["rules"]
    codes = {c: r["action"] for r in rules for c in r.get("onExitCodes", {}).get("values", ())}
    assert codes == {2: "FailJob", 143: "Ignore"}
    names = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    assert names == {container["name"]}
