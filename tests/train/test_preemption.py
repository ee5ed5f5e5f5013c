import os
import signal
import time

import pytest

from sdejax.train.preemption import EXIT_CODE, preemption_notice


def test_sigterm_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption_notice() as requested:
        assert not requested(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested(1)
        assert requested(2)
    assert signal.getsignal(signal.SIGTERM) is before
    with preemption_notice() as requested:
        assert not requested(0)


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
