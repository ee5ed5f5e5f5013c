import os
import signal
import subprocess
import sys
import time

import pytest

from sdejax.train.preemption import EXIT_CODE, preemption_notice

BUSY = """
import hashlib, sys
from sdejax.train.preemption import preemption_notice

with preemption_notice() as notice:
    if sys.argv[1] == "unsaved":
        notice.unsaved(True)
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000_000)  # outside Python, as a compilation is
    print("told" if notice.requested() else "not told", flush=True)
"""


def busy(what):
    """A process in a call of a second or more, sent SIGTERM in the middle of it."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_with_unsaved_work_sigterm_waits_to_be_asked_about():
    code, out, err = busy("unsaved")
    assert (code, out, err) == (0, "told\n", "")


def test_with_nothing_unsaved_sigterm_ends_the_process_at_once():
    code, out, err = busy("saved")
    assert (code, out) == (EXIT_CODE, "")
    assert "stopped by SIGTERM; nothing was unsaved" in err
    assert "Traceback" not in err


def test_sigterm_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption_notice() as notice:
        notice.unsaved(True)
        assert not notice.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.requested()
        assert notice.requested()
    assert signal.getsignal(signal.SIGTERM) is before
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert wakeup == -1
    with preemption_notice() as notice:
        assert not notice.requested()


def test_several_processes_end_at_once_when_all_is_done(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with preemption_notice() as notice:
            notice.unsaved(False)  # the others may have unsaved work
            assert signal.getsignal(signal.SIGTERM) is before
            notice.done()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_stays_an_interrupt():
    def loop():
        with preemption_notice():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    # A shell's background jobs ignore SIGINT from the start, so Python's handler is set here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_exit_code_is_that_of_sigterm():
    assert EXIT_CODE == 128 + signal.SIGTERM
