"""``sdejax train`` as a real process that is killed, or asked to stop, and started again."""

from experiments.reliability import resume, sigterm

SLOW = 100.0  # seconds: on a busy machine limits in seconds say nothing


def test_ten_steps_a_kill_and_ten_more_are_twenty(tmp_path):
    outcome = resume.scenario(1, tmp_path)
    assert outcome.passed, outcome


def test_sigterm_in_each_phase(tmp_path):
    outcome = sigterm.scenario(1, tmp_path, limit=SLOW)
    assert outcome.passed, outcome
    assert outcome.tries == len(sigterm.PHASES) == 7


def test_what_a_stopped_run_left_is_compared(tmp_path):
    said = ["phase training", "step 1", "step 2"]
    assert +sigterm._left(tmp_path, said, {}) == {"lost": 1}
    assert not +sigterm._left(tmp_path, ["phase compilation"], {})
