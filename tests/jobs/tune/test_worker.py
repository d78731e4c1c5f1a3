"""A trial's process: what it says, how it may end, and that it leaves no orphan."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from cmdcm.jobs.tune.worker import Worker
from cmdcm.tests.jobs.tune import fakes

ORPHAN = """
import os, signal, sys
from cmdcm.jobs.tune.worker import Worker
from cmdcm.tests.jobs.tune import fakes

if __name__ == "__main__":
    worker = Worker(fakes.hold, sys.argv[1])
    assert worker.receive() == ("report", "held")
    worker.go_on()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_waits_after_each_report():
    worker = Worker(fakes.echo, "word")
    assert worker.receive() == ("report", "word")
    assert not worker.connection.poll(0.2)
    worker.go_on()
    assert worker.receive() == ("report", "wordword")
    worker.go_on()
    assert worker.receive() == ("done", None)
    worker.stop()


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("value", ("failed", "ValueError: invalid literal for int() with base 10: 'x'")),
        ("data", ("failed", "no rows")),
        ("exit", ("failed", "its process ended with code 3")),
        ("kill", ("failed", "its process was ended by SIGKILL, perhaps for lack of memory")),
        ("term", ("preempted", None)),
        ("preempted", ("preempted", None)),
    ],
)
def test_every_end_is_reported(ending, message, capfd):
    worker = Worker(fakes.echo, ending)
    assert worker.receive() == ("report", ending)
    worker.go_on()
    assert worker.receive() == message
    worker.stop()
    assert ("Traceback" in capfd.readouterr().err) == (ending == "value")


def test_a_worker_that_is_killed_while_it_waits_is_heard_of(tmp_path):
    worker = Worker(fakes.pid, "")
    kind, number = worker.receive()
    assert kind == "report"
    os.kill(number, signal.SIGKILL)
    assert worker.connection.poll(60)
    worker.go_on()
    assert worker.receive() == (
        "failed",
        "its process was ended by SIGKILL, perhaps for lack of memory",
    )
    worker.stop()


def test_a_stopped_worker_is_gone(tmp_path):
    worker = Worker(fakes.hold, str(tmp_path / "lock"))
    assert worker.receive() == ("report", "held")
    worker.go_on()
    worker.stop()
    with (tmp_path / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ORPHAN)
    lock = tmp_path / "lock"
    done = subprocess.run([sys.executable, program, lock], check=False)
    assert done.returncode == -9
    with lock.open("w") as stream:
        for _ in range(600):
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(0.1)
    raise AssertionError("the worker outlives the process that started it")
