import jax
import pytest

from sdejax.cli import main
from sdejax.train.hosts import check_agreement, join, together
from sdejax.train.places import Place

# What needs two processes is in test_two_processes.py and tests/reliability.


def test_a_process_on_its_own_joins_nobody(capsys):
    join(None)
    assert not jax.distributed.is_initialized()
    assert capsys.readouterr().out == ""
    check_agreement({"config": "{}"})


@pytest.mark.parametrize("place", [None, Place("flags", "h:1", 2, 0)])
def test_a_heartbeat_is_a_second_at_least(place):
    with pytest.raises(ValueError, match="--heartbeat: got 0, expected at least 1 second"):
        join(place, heartbeat=0)


def test_joining_after_the_devices_were_touched_is_refused(capsys):
    jax.devices()
    with pytest.raises(OSError, match=r"joining the other processes \(flags\) failed: .*before"):
        join(Place("flags", "127.0.0.1:1", 2, 0))
    assert capsys.readouterr().out == "process 0 of 2 (flags), coordinator 127.0.0.1:1\n"


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_alone_errors_pass(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as found, together():
        fail()
    assert found.value is error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--process-id", "1"), "--process-id: got 1 without --coordinator"),
        (("--distributed",), "--distributed: found no Slurm step"),
        (("--heartbeat", "0"), "--heartbeat: got 0"),
        (("--coordinator", "h:1", "--no-distributed"), "--no-distributed with --coordinator"),
    ],
)
def test_the_command_refuses_flags_before_it_reads_the_config(flags, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", "missing.py", "--workdir", str(tmp_path / "w"), *flags])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
