"""`cmdcm import`, from its arguments to its summary."""

import argparse
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import DataError, OutputError
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.commands import import_
from cmdcm.tests.checkout import ROOT

ROWS = [
    "1,10,100,pv,1511544070",
    "1,10,100,cart,1511544080",
    "2,11,100,pv,1511630480",
    "2,11,100,look,1511630480",
    "3,11,100,buy,1483228800",
]


def run(*arguments: str, config: Config | None = None) -> int:
    parser = argparse.ArgumentParser()
    import_.add_arguments(parser)
    return import_.run(parser.parse_args(arguments), config or Config())


def raw_log(tmp_path: Path, rows: list[str]) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_summary_and_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = raw_log(tmp_path, ROWS), tmp_path / "out/events"
    config = load_config(overrides=["events.max_rejected_share=0.2", "events.start=2017-11-25"])
    arguments = ("--format", "taobao", "--input", str(path), "--output", str(output))
    assert run(*arguments, config=config) == 0
    printed, progress = capsys.readouterr()
    assert printed.splitlines() == [
        "rows read   5",
        "events      3",
        "by kind     click 2, cart 1",
        "users       2",
        "items       2",
        "days        2, 2017-11-25 to 2017-11-26 (Asia/Shanghai)",
        "resolution  second",
        "rejected    1",
        "            unknown event kind: 1 (line 4: '2,11,100,look,1511630480')",
        "dropped     1",
        "            outside [events.start, events.end): 1",
        f"written     {output}",
    ]
    assert "reading log.csv" in progress
    assert open_event_log(output).manifest["rows"] == 3


def test_worked_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (
        (ROOT / "docs/events.md").read_text(encoding="utf-8").partition("### A worked example")[2]
    )
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", blocks["python"]], check=True)
    Path("shop.toml").write_text(blocks["toml"], encoding="utf-8")
    arguments = ("--format", "parquet", "--input", "shop.parquet", "--output", "out/events")
    assert run(*arguments, config=load_config(Path("shop.toml"))) == 0
    assert capsys.readouterr().out == blocks["text"]


def test_overwrite(tmp_path: Path) -> None:
    path, output = raw_log(tmp_path, ROWS[:3]), tmp_path / "events"
    arguments = ("--format", "taobao", "--input", str(path), "--output", str(output))
    assert run(*arguments) == 0
    with pytest.raises(OutputError, match="--overwrite"):
        run(*arguments)
    raw_log(tmp_path, ROWS[:1])
    assert run(*arguments, "--overwrite") == 0
    assert open_event_log(output).manifest["rows"] == 1


def test_unknown_format_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run("--format", "excel", "--input", "a", "--output", "b")
    assert exit_.value.code == 2
    assert "taobao" in capsys.readouterr().err


def test_bad_input_publishes_nothing(tmp_path: Path) -> None:
    path = raw_log(tmp_path, ROWS)
    arguments = ("--format", "taobao", "--output", str(tmp_path / "events"), "--input")
    with pytest.raises(DataError, match="1 of 5 rows are malformed"):
        run(*arguments, str(path))
    with pytest.raises(DataError, match="input not found"):
        run(*arguments, str(tmp_path / "none.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_disk_full_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq, "write_table", full)
    path = raw_log(tmp_path, ROWS[:3])
    with pytest.raises(OutputError, match="no space left while writing"):
        run("--format", "taobao", "--input", str(path), "--output", str(tmp_path / "events"))
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
