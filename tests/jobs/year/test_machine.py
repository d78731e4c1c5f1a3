"""The full disk and the flipped bytes are what the operating system and the checks would see."""

import pytest

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import staged_directory, staged_file, verify_manifest, write_manifest
from cmdcm.jobs.year.machine import break_bytes, full_disk


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
