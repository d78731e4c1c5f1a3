"""The stages that executors run, without Spark: a dictionary moves the messages."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings

from cmdcm.core.config import LabelsConfig
from cmdcm.core.errors import OutputError
from cmdcm.datasets.calendar import HOUR_MS
from cmdcm.features import messages, spark_stages
from cmdcm.features.messages import Message, from_rows, joined, to_rows
from cmdcm.features.plan import Plan
from cmdcm.features.shards import Shards
from cmdcm.features.spark_stages import Stages
from cmdcm.tests.features.logs import Log, event, logs
from cmdcm.tests.features.spark_logs import LOGS, OBSERVED, Stored, written
from cmdcm.tests.features.test_pipeline import full_disk, shards_of

Batches = list[pa.RecordBatch]


def stages_of(stored: Stored, folder: Path) -> Stages:
    plan = Plan.of(stored.events, stored.config)
    stages = Stages(
        config=stored.config,
        settings=plan.settings,
        log=stored.events,
        slices=stored.events.slices(1),
        columns=plan.columns,
        partitions=plan.partitions,
        result=folder / "result",
        work=folder / "work",
    )
    for path in (stages.result, stages.accounts, stages.attempts):
        assert isinstance(path, Path)
        path.mkdir(parents=True)
    return stages


def read(stages: Stages) -> Batches:
    return list(stages.read([pa.record_batch({"id": range(len(stages.slices))})]))


def run(stage: Callable[[Batches], Iterable[pa.RecordBatch]], batches: Batches) -> Batches:
    """Runs a stage's tasks, each with the messages to it."""
    by_task: dict[int, list[Message]] = {}
    for message in from_rows(batches):
        by_task.setdefault(message.to, []).append(message)
    return [batch for task in by_task.values() for batch in stage(list(to_rows(task)))]


def ready_to_build(stages: Stages) -> Batches:
    return run(stages.answer, run(stages.count, read(stages)))


@settings(max_examples=40)
@given(log=logs())
def test_random_logs_give_the_references_rows(log):
    assume(log.events)
    with tempfile.TemporaryDirectory() as folder:
        stored = Stored.of(log, Path(folder, "log"), files=1)
        stages = replace(stages_of(stored, Path(folder)), settings=log.settings)
        run(stages.build, ready_to_build(stages))
        assert written(Path(folder, "result")) == stored.expected()


@pytest.mark.parametrize("name", LOGS)
def test_logs_with_bots_and_hot_items_give_the_references_rows(name, tmp_path):
    stored = Stored.of(LOGS[name], tmp_path / "log")
    stages = stages_of(stored, tmp_path)
    run(stages.build, ready_to_build(stages))
    assert written(tmp_path / "result") == stored.expected()


def test_messages_survive_rows(monkeypatch):
    table = pa.table({"id": ["a", None], "n": pa.array([1, 2], pa.int8())})
    sent = [Message.of(to, 5, f"name-{to}", table.slice(to)) for to in range(3)]
    assert len(list(to_rows(sent))) == 1
    assert list(to_rows([])) == []
    monkeypatch.setattr(messages, "_BATCH_BYTES", len(sent[0].data) + 1)
    batches = list(to_rows(sent))
    assert [batch.num_rows for batch in batches] == [2, 1]
    received = list(from_rows([batches[0].slice(1), batches[1]]))
    assert [(m.to, m.sender, m.name) for m in received] == [(1, 5, "name-1"), (2, 5, "name-2")]
    assert [m.table for m in received] == [table.slice(1), table.slice(2)]
    rows, senders = joined([replace(received[0], sender=3), received[0], sent[0]])
    assert rows["n"].to_pylist() == [2, 2, 1, 2]
    assert senders.tolist() == [3, 5, 5, 5]


def test_a_hot_item_costs_its_bucket_one_row_an_hour_and_partition(tmp_path):
    start = Log([]).calendar.bounds()[0, 0]
    clicks = [
        event(user, 7, "click", int(start) + hour * HOUR_MS + user)
        for user in range(400)
        for hour in range(3)
    ]
    log = Log(clicks, labels=LabelsConfig(observed_until=OBSERVED))
    stored = Stored.of(log, tmp_path / "log", partitions=4)
    stages = stages_of(stored, tmp_path)
    counted = list(from_rows(run(stages.count, read(stages))))
    for name in ("item_hours", "item_questions"):
        sent = [message for message in counted if message.name == name]
        assert len({message.to for message in sent}) == 1
        assert sum(message.table.num_rows for message in sent) == 3 * 4


def test_a_second_attempt_at_a_partition_leaves_the_same_files(tmp_path, monkeypatch):
    # An executor's own temporary directory may be on another file system.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    stored = Stored.of(LOGS["skewed"], tmp_path / "log")
    stages = stages_of(stored, tmp_path)
    ready = ready_to_build(stages)
    run(stages.build, ready)
    first = shards_of(tmp_path / "result")
    assert len(first) > 3

    # One that did not see the first one's account, and one that finds it damaged.
    for account in stages.accounts.iterdir():
        account.unlink()
    run(stages.build, ready)
    assert shards_of(tmp_path / "result") == first
    damaged = stages.result / next(iter(first))
    damaged.write_bytes(b"half")
    run(stages.build, ready)
    assert shards_of(tmp_path / "result") == first
    assert list((tmp_path / "work" / "attempts").iterdir()) == []


def test_partitions_that_are_written_are_not_built_again(tmp_path, monkeypatch):
    stages = stages_of(Stored.of(LOGS["skewed"], tmp_path / "log"), tmp_path)
    ready = ready_to_build(stages)
    pairs = run(stages.build, ready)
    monkeypatch.setattr(spark_stages, "build_examples", lambda *_: pytest.fail("built again"))
    assert run(stages.build, ready) == pairs


def test_an_attempt_that_fails_leaves_nothing(tmp_path, monkeypatch):
    stages = stages_of(Stored.of(LOGS["skewed"], tmp_path / "log"), tmp_path)
    ready = ready_to_build(stages)
    monkeypatch.setattr(Shards, "save", full_disk(Shards.save, 1))
    with pytest.raises(OutputError, match="no space left"):
        run(stages.build, ready)
    (account,) = stages.accounts.iterdir()
    shards = {Path(name).name for name in shards_of(tmp_path / "result")}
    assert shards == {f"part-{account.stem}.tfrecord"}
    assert list((tmp_path / "work" / "attempts").iterdir()) == []


def test_a_task_with_messages_to_two_is_a_defect(tmp_path):
    stages = stages_of(Stored.of(LOGS["dense"], tmp_path / "log"), tmp_path)
    with pytest.raises(ValueError, match="too many values"):
        list(stages.count(read(stages)))


def test_executors_need_neither_tensorflow_nor_pyspark():
    program = (
        "import sys, cmdcm.features.spark_stages\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'pyspark'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
