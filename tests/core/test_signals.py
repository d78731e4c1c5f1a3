"""SIGTERM is noted, and then given back."""

import os
import signal
import threading

from cmdcm.core.signals import Termination


def test_it_is_noted_inside_the_block_alone():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("outside"))
    try:
        with Termination() as termination:
            assert not termination.asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert termination.asked
            assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["outside"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_hears_nothing_and_disturbs_nothing():
    handler, found = signal.getsignal(signal.SIGTERM), []

    def listen():
        with Termination() as termination:
            found.append((termination.asked, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [(False, handler)]
