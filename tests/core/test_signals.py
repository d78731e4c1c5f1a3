"""SIGTERM is noted, and then given back."""

import os
import signal
import threading

import pytest

from cmdcm.core.errors import CmdcmError, PreemptedError
from cmdcm.core.signals import Termination, ending_at_sigterm


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


def test_a_block_ends_where_it_stands_and_gives_back_what_it_holds():
    before, done = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(PreemptedError, match="run the same command"), ending_at_sigterm():
        try:
            try:
                signal.raise_signal(signal.SIGTERM)
            except CmdcmError:
                done.append("taken for an error of its own")
            done.append("went on")
        finally:
            signal.raise_signal(signal.SIGTERM)  # once more, by somebody impatient
            done.append("freed")
    assert done == ["freed"] and signal.getsignal(signal.SIGTERM) is before


def test_who_saves_his_state_hears_the_signal_first():
    with ending_at_sigterm():
        with Termination() as termination:
            signal.raise_signal(signal.SIGTERM)
        assert termination.asked


def in_a_block():
    with ending_at_sigterm():
        signal.raise_signal(signal.SIGTERM)


def with_its_state_saved():
    with Termination() as termination:
        signal.raise_signal(signal.SIGTERM)
    assert termination.asked
    raise PreemptedError("the state is saved: run the same command to go on")


@pytest.mark.parametrize("inner", [in_a_block, with_its_state_saved])
def test_the_way_out_of_the_blocks_around_it_is_not_interrupted_either(inner):
    before, done = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(PreemptedError, match="run the same command"), ending_at_sigterm():
        try:
            inner()
        finally:
            signal.raise_signal(signal.SIGTERM)  # once more, by somebody impatient
            done.append("freed")
    assert done == ["freed"] and signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(PreemptedError):  # the next one is heard again
        in_a_block()
