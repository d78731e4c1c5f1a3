"""The lock: one run at a time, freed by its end, by a kill, and by time."""

import json
import os
import socket

import pytest

from cmdcm.core.errors import RetrainError
from cmdcm.jobs.retrain.lock import job_lock
from cmdcm.tests.jobs.retrain.worlds import Clock


def test_a_second_run_is_told_who_holds_it_and_until_when(tmp_path):
    path, clock = tmp_path / "locks" / "p.json", Clock("2024-06-10T01:00")
    with (
        job_lock(path, 2, clock),
        pytest.raises(RetrainError) as error,
        job_lock(path, 2, clock),
    ):
        pass
    assert f"process {os.getpid()}" in str(error.value)
    assert "since 2024-06-10T01:00:00+00:00" in str(error.value)
    assert "until 2024-06-10T03:00:00+00:00" in str(error.value)
    with job_lock(path, 2, clock):
        pass
    assert not path.exists()


def test_an_expired_lock_is_taken_and_its_first_holder_goes_no_further(tmp_path):
    path, clock = tmp_path / "p.json", Clock()
    with job_lock(path, 2, clock) as first:
        first.check()
        clock.now += 2 * 3600
        with job_lock(path, 2, clock) as second:
            second.check()
            with pytest.raises(RetrainError, match="goes no further"):
                first.check()
        assert not path.exists()
    assert not path.exists()


def write(path, **changes) -> None:
    holder = {
        "owner": "ann@elsewhere process 7",
        "host": socket.gethostname(),
        "process": 2**22 + 1,  # above the largest number of a Linux process
        "since": 0,
        "until": Clock()() + 3600,
        "token": "x",
    }
    path.write_text(json.dumps(holder | changes))


def test_a_lock_of_a_dead_process_of_this_machine_is_taken(tmp_path):
    path = tmp_path / "p.json"
    write(path)
    with job_lock(path, 1, Clock()) as lock:
        lock.check()


def test_of_another_machine_nobody_knows_who_is_dead(tmp_path):
    path = tmp_path / "p.json"
    write(path, host="elsewhere.example")
    with pytest.raises(RetrainError, match="ann@elsewhere"), job_lock(path, 1, Clock()):
        pass
