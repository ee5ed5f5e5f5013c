"""What a run survives, measured: kills, damage, full disks, preemption, two writers.

    python -m experiments.reliability --help

One file a scenario: ``scenario(tries, folder) -> Outcome``. The tests in ``tests/reliability`` call
the same functions with few tries.
"""
