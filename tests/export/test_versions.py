"""Publishing: numbers, concurrency, and a process that dies at any step."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmdcm.core.errors import ExportError, OutputError
from cmdcm.core.files import put_file, verify_manifest, write_manifest
from cmdcm.core.locations import location
from cmdcm.export.versions import publish, staging_directory, versions, withdraw

FILES = ("saved_model.pb", "variables/variables.index", "assets.extra/config.json")


def write_version(staging):
    for name in FILES:
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).write_text(name * 100)
    write_manifest(staging, {"kind": "export"})


def publish_one(base):
    with staging_directory(base) as staging:
        write_version(staging)
        return publish(staging, base)


def test_numbers_count_up_and_ignore_what_is_no_version(tmp_path):
    for name in ("00000041", ".77.staging-1", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").touch()
    assert publish_one(tmp_path) == 42
    assert versions(tmp_path) == [41, 42]
    verify_manifest(tmp_path / "42")


@pytest.mark.parametrize("remote", [False, True])
def test_concurrent_exports_take_different_numbers(tmp_path, remote):
    base = location("memory://concurrent/cmdcm") if remote else tmp_path
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(publish_one, [base] * 16))
    assert sorted(numbers) == list(range(1, 17)) == versions(base)
    assert {p.name for p in base.iterdir()} == {str(n) for n in numbers}


def test_the_model_itself_is_uploaded_last(monkeypatch):
    order = []

    def put(source, target):
        order.append(source.name)
        put_file(source, target)

    monkeypatch.setattr("cmdcm.export.versions.put_file", put)
    assert publish_one(location("memory://order/cmdcm")) == 1
    assert order == ["config.json", "manifest.json", "variables.index", "saved_model.pb"]


def test_a_number_that_was_claimed_by_a_dead_process_is_not_used_again():
    base = location("memory://claimed/cmdcm")
    publish_one(base)
    with (base / ".claim-5").open("w") as stream:
        stream.write("somewhere 1")
    assert publish_one(base) == 6


KILLED = """
import os, signal, sys
from pathlib import Path
from upath import UPath
from cmdcm.tests.export.test_versions import publish_one

base, at = sys.argv[1], int(sys.argv[2])
seen = 0

def die(event, arguments):
    global seen
    if event.split(".")[0] in ("open", "os", "shutil", "tempfile"):
        if not any(base in str(argument) for argument in arguments):
            return
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
publish_one(Path(base))
"""


@pytest.mark.slow
def test_a_process_killed_at_any_step_leaves_no_version_or_a_whole_one(tmp_path):
    outcomes = []
    for step in range(1, 200):
        base = tmp_path / f"base{step}"
        base.mkdir()
        command = [sys.executable, "-c", KILLED, str(base), str(step)]
        code = subprocess.run(command, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        for number in versions(base):
            verify_manifest(base / str(number))
        left = [p.name for p in base.iterdir()]
        assert all(name == "1" or name.startswith(".staging-") for name in left)
        outcomes.append(bool(versions(base)))
        # The next export is not disturbed, and clears up.
        assert publish_one(base) == len(versions(base))
        assert [p for p in base.iterdir() if p.name.startswith(".")] == []
        if code == 0:
            break
    assert code == 0, "the loop ended before the export did"
    assert outcomes[0] is False and outcomes[-1] is True
    assert len(outcomes) > 10


@pytest.mark.parametrize("failing", range(4))
def test_a_remote_version_cut_off_has_no_model_file(monkeypatch, failing):
    base = location(f"memory://cut{failing}/cmdcm")
    from cmdcm.export import versions as module

    original, calls = module.put_file, []

    def put(source, target):
        calls.append(source)
        if len(calls) > failing:
            raise KeyboardInterrupt  # as good as a kill: nothing is caught
        original(source, target)

    monkeypatch.setattr(module, "put_file", put)
    with pytest.raises(KeyboardInterrupt):
        publish_one(base)
    assert not (base / "1" / "saved_model.pb").exists()
    monkeypatch.setattr(module, "put_file", original)
    assert publish_one(base) == 2


@pytest.mark.parametrize("name", ["saved_model.pb", "other"])
def test_a_remote_file_that_arrives_cut_makes_no_version(monkeypatch, name):
    base = location(f"memory://short-{name}/cmdcm")
    from cmdcm.export import versions as module

    original = module.put_file

    def put(source, target):
        original(source, target)
        if (source.name == "saved_model.pb") == (name == "saved_model.pb"):
            target.write_bytes(source.read_bytes()[:-1])

    monkeypatch.setattr(module, "put_file", put)
    with pytest.raises(ExportError, match=r"arrived with \d+ of \d+ bytes; no version was made"):
        publish_one(base)
    assert not (base / "1" / "saved_model.pb").exists()


def test_staging_of_a_living_process_stays(tmp_path):
    import socket

    alive = tmp_path / f".staging-{socket.gethostname()}-{os.getpid()}-x"
    alive.mkdir()
    elsewhere = tmp_path / ".staging-elsewhere-1-x"
    elsewhere.mkdir()
    publish_one(tmp_path)
    assert alive.exists() and elsewhere.exists()


def test_a_base_path_that_is_a_file_is_named(tmp_path):
    (tmp_path / "base").touch()
    with pytest.raises(OutputError, match="base"):
        publish_one(tmp_path / "base")


def test_a_version_that_was_withdrawn_is_gone_for_servers_and_its_number_with_it(tmp_path):
    assert [publish_one(tmp_path), publish_one(tmp_path)] == [1, 2]
    withdraw(tmp_path, 2)
    assert versions(tmp_path) == [1] and publish_one(tmp_path) == 3
    verify_manifest(tmp_path / ".refused-2")
    withdraw(tmp_path, 3)
    withdraw(tmp_path, 1)
    assert publish_one(tmp_path) == 4 and versions(tmp_path) == [4]
