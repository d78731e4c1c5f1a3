"""Processes of a bench: each item once, whatever happens to another, a few to each process."""

import fcntl
import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from cmdcm.core.errors import CmdcmError
from cmdcm.jobs.bench import processes
from cmdcm.jobs.bench.processes import run_all
from cmdcm.tests.jobs.bench.noted import note

ORPHAN = """
import sys
from pathlib import Path
from cmdcm.jobs.bench.processes import run_all
from cmdcm.tests.jobs.bench.noted import note

if __name__ == "__main__":
    run_all("items", note, {"0": (Path(sys.argv[1]), "orphan")}, workers=1, progress=False)
"""


@pytest.mark.slow
def test_a_process_takes_some_items_and_the_next_one_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "ITEMS", 2)
    items = {str(n): (tmp_path / str(n), "") for n in range(5)}
    run_all("items", note, items, workers=1, progress=False)
    held = Counter((tmp_path / name).read_text() for name in items)
    assert sorted(held.values()) == [1, 2, 2]
    assert str(os.getpid()) not in held


@pytest.mark.slow
def test_failed_and_killed_items_are_named_and_the_others_done(tmp_path):
    ways = ("", "fail", "", "die", "")
    items = {f"{n} {way}": (tmp_path / str(n), way) for n, way in enumerate(ways)}
    with pytest.raises(CmdcmError, match="2 of 5 items failed") as caught:
        run_all("items", note, items, workers=1, progress=False)
    assert "1 fail: no rows" in str(caught.value)
    assert "3 die: its process ended with code 3" in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.slow
def test_a_process_that_is_told_to_end_takes_no_further_item(tmp_path):
    items = {str(n): (tmp_path / str(n), way) for n, way in enumerate(("told to end", ""))}
    with pytest.raises(CmdcmError, match="0: its process was ended by SIGTERM"):
        run_all("items", note, items, workers=1, progress=False)
    first, second = ((tmp_path / name).read_text() for name in items)
    assert first != second


@pytest.mark.slow
def test_an_item_waits_for_the_one_that_it_comes_after(tmp_path):
    items = {
        name: (tmp_path / name, "late" if name == "first" else "") for name in ("first", "next")
    }
    run_all("items", note, items, workers=2, progress=False, after={"next": "first"})
    began = {name: (tmp_path / name).stat().st_mtime_ns for name in items}
    assert began["first"] < began["next"]


@pytest.mark.slow
def test_an_item_ends_when_the_bench_is_killed(tmp_path):
    program, held = tmp_path / "program.py", tmp_path / "0"
    program.write_text(ORPHAN)
    done = subprocess.run([sys.executable, program, held], check=False)
    assert done.returncode == -9
    with held.open() as stream:
        for _ in range(100):
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(0.1)
    raise AssertionError("the item outlives the bench")


def test_without_items_no_process_is_started(monkeypatch):
    monkeypatch.setattr(processes, "_Process", None)
    run_all("items", note, {}, workers=0, progress=False)
