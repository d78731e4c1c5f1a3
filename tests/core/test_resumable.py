"""Work that goes on where it stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.resumable import resumable_directory


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop(target: Path, key: str, error: BaseException) -> None:
    with pytest.raises(type(error)), resumable_directory(target, key) as workspace:
        (workspace.work / "part").write_text("work")
        (workspace.result / "part").write_text("result")
        raise error


def test_the_result_becomes_the_target(tmp_path):
    with resumable_directory(tmp_path / "x" / "target", "k") as workspace:
        (workspace.work / "part").write_text("work")
        (workspace.result / "part").write_text("result")
        assert not (tmp_path / "x" / "target").exists()
    assert names(tmp_path / "x") == ["target"]
    assert names(tmp_path / "x" / "target") == ["part"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError(), OutputError("full")])
def test_after_an_error_the_next_run_with_the_same_key_finds_what_is_done(tmp_path, error):
    stop(tmp_path / "target", "k", error)
    assert names(tmp_path) == [".target.unfinished"]
    with resumable_directory(tmp_path / "target", "k") as workspace:
        assert (workspace.work / "part").read_text() == "work"
        assert (workspace.result / "part").read_text() == "result"
    assert names(tmp_path) == ["target"]


def test_a_run_with_another_key_starts_anew(tmp_path):
    stop(tmp_path / "target", "k", KeyboardInterrupt())
    with resumable_directory(tmp_path / "target", "other") as workspace:
        assert names(workspace.work) == names(workspace.result) == []


def test_bad_data_leaves_nothing(tmp_path):
    stop(tmp_path / "target", "k", DataError("bad"))
    assert names(tmp_path) == []


def test_a_target_is_replaced_only_if_asked(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(OutputError, match="--overwrite"), resumable_directory(target, "k"):
        pass
    with resumable_directory(target, "k", overwrite=True) as workspace:
        (workspace.result / "new").touch()
        assert names(target) == ["old"]
    assert names(target) == ["new"]


def test_two_runs_do_not_write_one_target(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from cmdcm.core.resumable import resumable_directory\n"
        "with resumable_directory(Path(sys.argv[1]), 'k'): pass\n"
    )
    target = tmp_path / "target"
    with resumable_directory(target, "k") as workspace:
        (workspace.result / "mine").touch()
        other = subprocess.run(
            [sys.executable, "-c", script, str(target)], capture_output=True, text=True
        )
        assert other.returncode != 0
        assert "another run is writing" in other.stderr
    assert names(target) == ["mine"]
