"""Two processes that are killed or asked to stop, and runs that go on on other devices."""

import json

from experiments.reliability.elastic import Leg, chained
from experiments.reliability.two_processes import KILL, interruptions
from experiments.reliability.two_processes_sigterm import TRAINING

PATIENT = 10.0  # on a busy machine limits in seconds say little


def test_two_processes_lose_nothing_when_one_is_killed_or_signalled(tmp_path):
    ways = [(KILL, 0), (TRAINING, 1), (KILL, 1), (TRAINING, 0)]
    outcome = interruptions("both", ways, tmp_path, patience=PATIENT)
    assert outcome.passed, outcome
    assert "(143 143) 2 times" in outcome.notes
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))  # process 1 writes nothing


def test_other_devices_and_processes_go_on_as_if_nothing_had_happened(tmp_path):
    legs = (
        Leg("pmap", 8),
        Leg("jit", 4, fsdp=2),
        Leg("pmap", 1),
        Leg("jit", 2, processes=2),
        Leg("pmap", 8),
    )
    outcome = chained(legs, range(1), tmp_path)
    assert outcome.passed, outcome
    assert outcome.tries == 4
