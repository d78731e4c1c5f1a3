"""The full disk and the flipped bytes are what the operating system and the checks would see."""

import subprocess
import sys

import pytest

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import staged_directory, staged_file, verify_manifest, write_manifest
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.year import machine
from cmdcm.jobs.year.machine import break_bytes, full_disk, run_killed
from cmdcm.tests.jobs.retrain.worlds import ALL, AS_OF, PROMOTION, Clock, FakeSteps, config_of

WORKER = """
import sys
from pathlib import Path
from types import SimpleNamespace

from cmdcm.jobs.year import worker
from cmdcm.tests.jobs.retrain.worlds import FakeSteps

fakes = FakeSteps().install(SimpleNamespace(setattr=setattr))


def train(context, output):
    (output / "run").mkdir()
    context.check()


fakes.hooks["train"] = train
worker.main(Path(sys.argv[1]))
"""
"""The killed worker's program with fake steps; its training looks at the clock as the real one."""


def test_a_full_disk_fails_writing_there_and_nowhere_else(tmp_path):
    full, free = tmp_path / "full", tmp_path / "free"
    with full_disk(full):
        with pytest.raises(OutputError, match="no space left"), staged_file(full / "a") as staging:
            staging.write_text("a")
        with staged_file(free / "b") as staging:
            staging.write_text("b")
    assert not (full / "a").exists() and (free / "b").read_text() == "b"
    with staged_file(full / "a") as staging:
        staging.write_text("a")
    assert (full / "a").read_text() == "a"


def test_flipped_bytes_are_found_by_the_manifest(tmp_path):
    with staged_directory(tmp_path / "version") as staging:
        (staging / "saved_model.pb").write_bytes(bytes(100))
        write_manifest(staging, {"kind": "export"})
    verify_manifest(tmp_path / "version")
    break_bytes(tmp_path / "version" / "saved_model.pb")
    assert (tmp_path / "version" / "saved_model.pb").stat().st_size == 100
    with pytest.raises(DataError, match=r"saved_model\.pb: SHA-256 differs"):
        verify_manifest(tmp_path / "version")


def test_a_killed_worker_leaves_what_the_same_job_goes_on_with(tmp_path, monkeypatch):
    config, now = config_of(tmp_path, deadline_hours=6.0), Clock()()
    request = Request(PROMOTION, AS_OF, by="ann")
    run = subprocess.run
    with monkeypatch.context() as patch:
        patch.setattr(
            machine.subprocess,
            "run",
            lambda command, **how: run([sys.executable, "-c", WORKER, command[-1]], **how),
        )
        assert run_killed(config, request, now, tmp_path) == "SIGKILL in its training"
    assert list((tmp_path / "work" / "locks").glob("*.json"))  # nobody could free it
    fakes = FakeSteps().install(monkeypatch)
    assert retrain(config, request, lambda: now).outcome == "published"
    assert fakes.ran == ALL[ALL.index("train") :]
