"""Observers: all are told of a run, and none can harm it."""

import pytest

from cmdcm.model.observers import Observer, Observers


class Noted(Observer):
    """Notes what it is told; fails at one of the calls, if asked to."""

    def __init__(self, fails: str = ""):
        self.told: list[tuple] = []
        self.fails = fails

    def note(self, name, *values):
        self.told.append((name, *values))
        if name == self.fails:
            raise OSError("no server")

    def started(self, taken):
        self.note("started", taken)

    def stepped(self, taken, values):
        self.note("stepped", taken, dict(values))

    def finished_epoch(self, epoch, record):
        self.note("finished_epoch", epoch, dict(record))

    def ended(self, error):
        self.note("ended", error)


RUN = [
    ("started", 5),
    ("stepped", 6, {"loss": 1.0}),
    ("finished_epoch", 1, {"auc": 0.7}),
    ("ended", None),
]


def run(observers: Observers) -> None:
    with observers.watch(5):
        observers.stepped(6, {"loss": 1.0})
        observers.finished_epoch(1, {"auc": 0.7})


def test_all_are_told_of_a_run_from_its_start_to_its_end():
    both = [Noted(), Noted()]
    run(Observers(both))
    assert [observer.told for observer in both] == [RUN, RUN]


def test_the_error_that_ends_a_run_is_told_and_goes_on():
    noted, error = Noted(), KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), Observers([noted]).watch(0):
        raise error
    assert noted.told == [("started", 0), ("ended", error)]


@pytest.mark.parametrize("call", range(len(RUN)))
def test_one_that_fails_is_left_out_with_one_warning(call, caplog):
    fails, other = Noted(RUN[call][0]), Noted()
    run(Observers([fails, other]))
    assert fails.told == RUN[: call + 1]
    assert other.told == RUN
    (message,) = [record.getMessage() for record in caplog.records]
    assert "Noted records nothing more of this run" in message and "no server" in message
