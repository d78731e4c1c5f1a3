"""Spans: logs by day, late events, and what a second run leaves as it is."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from upath import UPath

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_manifest, verify_manifest
from cmdcm.core.locations import location
from cmdcm.datasets.calendar import to_ms
from cmdcm.datasets.log import open_event_log
from cmdcm.features import pipeline
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.plan import EXAMPLES
from cmdcm.tests.features.logs import Log
from cmdcm.tests.features.reference import Event
from cmdcm.tests.features.test_pipeline import ZONE, config, events, log, shards_of

__all__ = ["events", "log"]  # fixtures

LAST = "2024-03-19"
"""The day on which promotion c has ended."""


def day_of(event: Event) -> str:
    return str(Log([]).calendar.local_days(np.array([event["time"]]))[0])


def deliver(folder: Path, log: Log, some: list[Event], name: str = "part.parquet") -> None:
    """Writes events into the directory of the day on which they happened."""
    for day in sorted({day_of(e) for e in some}):
        path = folder / f"date={day}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(log.table([e for e in some if day_of(e) == day]), path)


def build(folder: Path, target: Path, update: bool = False, **labels: Any) -> dict[str, Any]:
    settings = config(partitions=2)
    changed = settings.labels.model_copy(update={"observed_until": "", **labels})
    days = open_event_log(folder / "date={YYYY-MM-DD}", allow_missing_days=True)
    return build_dataset(
        days, target, settings.model_copy(update={"labels": changed}), update=update
    )


@pytest.fixture(scope="module")
def days(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log by day, up to the end of promotion c."""
    folder = tmp_path_factory.mktemp("days")
    deliver(folder, log, [e for e in log.events if e["time"] < to_ms(LAST, ZONE)])
    return folder


@pytest.fixture
def updated(days: Path, tmp_path: Path) -> Path:
    """A copy of the days, beside the examples made of them."""
    for path in sorted(days.rglob("*.parquet")):
        copy = tmp_path / "days" / path.relative_to(days)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    build(tmp_path / "days", tmp_path / "examples")
    return tmp_path


def inodes(target: Path) -> dict[str, int]:
    return {
        p.relative_to(target).as_posix(): p.stat().st_ino for p in sorted(target.glob("*/part-*"))
    }


def test_days_are_one_log(log, days, tmp_path):
    build(days, tmp_path / "days")
    whole = tmp_path / "whole.parquet"
    pq.write_table(log.table([e for e in log.events if e["time"] < to_ms(LAST, ZONE)]), whole)
    settings = config(partitions=2)
    labels = settings.labels.model_copy(update={"observed_until": ""})
    build_dataset(
        open_event_log(whole), tmp_path / "whole", settings.model_copy(update={"labels": labels})
    )
    assert shards_of(tmp_path / "days") == shards_of(tmp_path / "whole")


def test_an_update_without_news_changes_nothing(updated):
    target = updated / "examples"
    before = {p: p.stat() for p in sorted(target.rglob("*"))}
    build(updated / "days", target, update=True)
    assert {p: p.stat() for p in sorted(target.rglob("*"))} == before


def test_new_days_leave_the_promotions_before_them(log, updated):
    target = updated / "examples"
    before = inodes(target)
    made = read_manifest(target, EXAMPLES)
    deliver(updated / "days", log, [e for e in log.events if e["time"] >= to_ms(LAST, ZONE)])
    manifest = build(updated / "days", target, update=True)
    verify_manifest(target)
    assert list(made["promotions"]) == ["a", "b", "c"]
    assert list(manifest["promotions"]) == ["a", "b", "c", "d"]
    after = inodes(target)
    assert len(before) > 5
    assert before.items() < after.items()
    build(updated / "days", updated / "anew")
    assert shards_of(target) == shards_of(updated / "anew")
    for name in ("statistics.pbtxt", "statistics.zip"):
        assert (target / name).read_bytes() == (updated / "anew" / name).read_bytes()
    assert manifest == read_manifest(updated / "anew", EXAMPLES)


@pytest.mark.parametrize(
    ("late", "kept"),
    [
        ("2024-02-20", ""),
        ("2024-03-05", ""),  # a's promotion day
        ("2024-03-06", "a"),  # b's window opens with the end of a
        ("2024-03-11", "a"),
        ("2024-03-12", "ab"),
        ("2024-03-18", "ab"),
        ("2024-03-19", "abc"),
    ],
)
def test_late_events_reopen_the_promotions_that_they_touch(log, updated, late, kept):
    """A late event is delivered with a day of its own past; promotions settled before it stay."""
    target = updated / "examples"
    before = inodes(target)
    promotions = {d: s["promotion"] for d, s in read_manifest(target, EXAMPLES)["days"].items()}
    some = log.events[0]
    news = [{**some, "kind": "purchase", "time": to_ms(late, ZONE)}]
    news += [{**some, "kind": "click", "time": to_ms(late, ZONE) + 5}]
    deliver(updated / "days", log, news, "late.parquet")
    build(updated / "days", target, update=True)
    verify_manifest(target)
    after = inodes(target)
    same = {promotions[name.split("/")[0]] for name in before if before[name] == after.get(name)}
    assert same == set(kept)
    build(updated / "days", updated / "anew")
    assert shards_of(target) == shards_of(updated / "anew")


def test_files_that_change_or_vanish_reopen_what_they_held(log, updated):
    target = updated / "examples"
    before = inodes(target)
    (changed,) = (updated / "days" / "date=2024-03-14").iterdir()
    changed.unlink()
    changed.parent.rmdir()
    build(updated / "days", target, update=True)
    after = inodes(target)
    assert {n for n in before if before[n] == after.get(n)} == {
        n for n in before if n < "2024-03-14"
    }
    build(updated / "days", updated / "anew")
    assert shards_of(target) == shards_of(updated / "anew")


@pytest.mark.parametrize("setting", [{"refunds": "cancel"}, {"refunded": True}])
def test_refunds_keep_a_promotion_open_until_they_are_settled(log, updated, setting):
    refunds: dict[str, Any] = {**setting, "refund_days": 3}
    target = updated / "with_refunds"
    made = build(updated / "days", target, **refunds)
    assert list(made["promotions"]) == ["a", "b"]
    before = inodes(target)
    refund = {**log.events[0], "kind": "refund", "time": to_ms("2024-03-14", ZONE)}
    deliver(updated / "days", log, [refund], "late.parquet")
    build(updated / "days", target, update=True, **refunds)
    after = inodes(target)
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {name for name in before if name < "2024-03-06"}


def test_an_update_with_other_settings_is_refused(updated):
    with pytest.raises(ConfigError, match=r"labels\.attribution_days.*--overwrite"):
        build(updated / "days", updated / "examples", update=True, attribution_days=4.0)
    verify_manifest(updated / "examples")


def test_an_update_of_nothing_is_a_first_run(days, tmp_path):
    build(days, tmp_path / "examples", update=True)
    verify_manifest(tmp_path / "examples")


KILLED = """
import os, sys
from pathlib import Path
from cmdcm.core.config import Config
from cmdcm.datasets.log import open_event_log
from cmdcm.features import pipeline
write, calls = getattr(pipeline, sys.argv[4]), [0]
def killed(*args, **named):
    if calls[0] == int(sys.argv[5]):
        os._exit(137)
    calls[0] += 1
    return write(*args, **named)
setattr(pipeline, sys.argv[4], killed)
config = Config.load(Path(sys.argv[3]))
pipeline.build_dataset(open_event_log(Path(sys.argv[1])), Path(sys.argv[2]), config)
"""


@pytest.mark.parametrize(
    ("stage", "calls"), [("write_run", 6), ("write_timeline", 2), ("write_shards", 3)]
)
def test_a_killed_run_goes_on_at_the_last_finished_task(
    events, tmp_path, monkeypatch, stage, calls
):
    settings = config(partitions=5, workers=1)
    settings.save(tmp_path / "config.json")
    arguments = [str(events.path), str(tmp_path / "examples"), str(tmp_path / "config.json")]
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, stage, str(calls)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert died.returncode == 137
    assert not (tmp_path / "examples").exists()

    done = getattr(pipeline, stage)
    called = []

    def counted(*arguments: Any, **named: Any) -> Any:
        called.append(arguments)
        return done(*arguments, **named)

    monkeypatch.setattr(pipeline, stage, counted)
    build_dataset(events, tmp_path / "examples", settings)
    fresh = len(called)
    build_dataset(events, tmp_path / "anew", settings)
    assert shards_of(tmp_path / "examples") == shards_of(tmp_path / "anew")
    assert fresh <= len(called) - fresh - calls + 3  # at most the partition's own files again
    assert not list(tmp_path.glob(".*"))


def test_a_shard_that_was_damaged_meanwhile_is_made_again(events, tmp_path, monkeypatch):
    settings = config(partitions=3, workers=1)
    done = pipeline.finish
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_dataset(events, tmp_path / "examples", settings)
    assert pipeline.finish is done
    shards = sorted(tmp_path.glob(".examples.unfinished/result/*/part-00001*"))
    shards[0].write_bytes(b"half")
    shards[1].unlink()
    build_dataset(events, tmp_path / "examples", settings)
    build_dataset(events, tmp_path / "anew", settings)
    assert shards_of(tmp_path / "examples") == shards_of(tmp_path / "anew")


def test_days_that_are_missing_are_an_error(days):
    path = days / "date={YYYY-MM-DD}"
    with pytest.raises(DataError, match=r"days are missing.*2024-.*--allow-missing-days"):
        open_event_log(path)
    whole = open_event_log(path, "2024-03-14", "2024-03-15")
    assert [whole.name_of(file) for file in whole.files] == [
        "date=2024-03-14/part.parquet",
        "date=2024-03-15/part.parquet",
    ]
    assert whole.manifest["first_span"] == "date=2024-03-14"


def test_url_and_path_give_the_same_examples(log, tmp_path):
    remote = UPath("memory://bucket/logs")
    local = tmp_path / "logs"
    deliver(local, log, log.events)
    for path in sorted(local.rglob("*.parquet")):
        copy = remote / path.relative_to(local).as_posix()
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    made = {}
    for base in (str(local), f"file://{local}", "memory://bucket/logs"):
        opened = open_event_log(location(base + "/date={YYYY-MM-DD}"), allow_missing_days=True)
        for target in (location(f"{base}-examples"), tmp_path / "copy"):
            build_dataset(opened, target, config(partitions=2), overwrite=True)
            made[base, str(target)] = {
                p.relative_to(target).as_posix(): p.read_bytes()
                for p in sorted(target.rglob("*"))
                if p.is_file()
            }
    first, *others = made.values()
    assert len(first) > 10
    assert all(other == first for other in others)


def test_a_remote_output_that_exists_is_replaced_only_if_asked(events):
    target = location("memory://bucket/examples")
    build_dataset(events, target, config())
    with pytest.raises(Exception, match="--overwrite"):
        build_dataset(events, target, config())
    with pytest.raises(ConfigError, match="only a local data set"):
        build_dataset(events, target, config(), update=True)
    before = {str(p) for p in target.rglob("*") if p.is_file()}
    build_dataset(events, target, config(partitions=3), overwrite=True)
    after = {str(p) for p in target.rglob("*") if p.is_file()}
    assert before != after
    assert len(read_manifest(target, EXAMPLES)["files"]) == len(after) - 1


def test_too_little_memory_is_a_configuration_error(events, tmp_path):
    with pytest.raises(ConfigError, match=r"features\.memory_gib.*rows_per_partition"):
        build_dataset(events, tmp_path / "examples", config(memory_gib=0.3))
