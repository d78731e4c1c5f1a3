"""The local runner: what lies on disk after `build_dataset`, and what does not after a failure."""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorflow.core.example.example_pb2 import Example

from cmdcm.core.config import (
    CalendarConfig,
    Config,
    FeaturesConfig,
    LabelsConfig,
    PromotionConfig,
)
from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import read_manifest, sha256, verify_manifest
from cmdcm.core.locations import location
from cmdcm.datasets.calendar import built_in, calendar_of, to_ms
from cmdcm.datasets.log import EventLog, open_event_log, write_event_log
from cmdcm.features import output, pipeline
from cmdcm.features.columns import labels_of
from cmdcm.features.encode import RecordWriter
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.plan import EXAMPLES, observed_until
from cmdcm.features.schema import read_schema
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.statistics import read_statistics
from cmdcm.features.tfrecord import read_records
from cmdcm.tests.features.logs import FEATURES, LABELS_CONFIG, PROMOTIONS, Log, dense_log, event
from cmdcm.tests.features.reference import DAY, Row

ZONE = "Asia/Shanghai"
CALENDAR = CalendarConfig(
    timezone=ZONE,
    promotions=tuple(
        PromotionConfig(
            name=name,
            kind=kind,
            warmup_start=warmup,
            pre_promotion_start=opens,
            promotion_start=starts,
            promotion_end=ends,
        )
        for name, kind, (warmup, opens, starts, ends) in PROMOTIONS
    ),
)


def config(**features: Any) -> Config:
    labels = LABELS_CONFIG.model_copy(update={"observed_until": "2024-04-20"})
    update = {"partitions": 1, **features}
    return Config(calendar=CALENDAR, labels=labels, features=FEATURES.model_copy(update=update))


@pytest.fixture(scope="module")
def log() -> Log:
    columns = ("user_id", "item_id", "kind", "timestamp", "category_id", "price")
    return dense_log(
        0,
        events=400,
        columns=columns,
        string_ids=("item_id",),
        observed_until_ms=to_ms("2024-04-20", ZONE),
    )


@pytest.fixture(scope="module")
def events(log: Log, tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    path = tmp_path_factory.mktemp("log") / "events"
    write_event_log(path, [log.table()], description={"source": "test"})
    return open_event_log(path)


@pytest.fixture(scope="module")
def dataset(events: EventLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "examples"
    build_dataset(events, path, config())
    return path


def feature_value(feature: Any) -> tuple[Any, ...]:
    """The values of a tf.train.Feature, after their kind."""
    kind = feature.WhichOneof("kind")
    return kind, *getattr(feature, kind).value


def expected_values(spec: FeatureSpec, row: Row) -> dict[str, tuple[Any, ...]]:
    """What the example of an engine's row holds: kinds and values of the columns it has."""
    values = {}
    for name, value in row.items():
        if value is None:
            continue
        some = value if isinstance(value, list) else [value]
        dtype = spec[name].dtype
        kind = {"int64": "int64_list", "float32": "float_list", "string": "bytes_list"}[dtype]
        values[name] = (kind, *(x.encode() if dtype == "string" else x for x in some))
    return values


def shard_rows(shards: Sequence[Path]) -> list[dict[str, tuple[Any, ...]]]:
    return [
        {name: feature_value(f) for name, f in Example.FromString(r).features.feature.items()}
        for shard in shards
        for r in read_records(shard)
    ]


def shards_of(directory: Path) -> dict[str, str]:
    """SHA-256 of every shard by name."""
    return {
        path.relative_to(directory).as_posix(): sha256(path)
        for path in sorted(directory.glob("*/part-*"))
    }


def test_shards_hold_the_engines_rows_in_a_folder_for_each_local_day(log, dataset):
    expected: dict[str, list[Row]] = {}
    for row in log.rows():
        day = log.calendar.local_days(np.array([row["click_time_ms"]]))[0]
        expected.setdefault(str(day), []).append(row)
    assert len(expected) > 3
    assert sorted(expected) == sorted(path.name for path in dataset.iterdir() if path.is_dir())
    for day, rows in expected.items():
        (shard,) = (dataset / day).iterdir()
        assert shard.name == "part-00000.tfrecord"
        assert shard_rows([shard]) == [expected_values(log.spec, row) for row in rows]


def test_manifest_counts_rows_and_labels_by_day_and_promotion(log, dataset):
    verify_manifest(dataset)
    manifest = read_manifest(dataset, EXAMPLES)
    rows = log.rows()
    assert manifest["rows"] == len(rows)
    assert manifest["timezone"] == ZONE
    assert manifest["observed_until_ms"] == log.observed_until_ms
    assert manifest["events"]["rows"] == len(log.events)
    by_promotion: dict[str, Counter[str]] = {}
    for row in rows:
        entry = by_promotion.setdefault(row["promotion"], Counter())
        entry.update({"rows": 1, **{name: row[name] for name in labels_of(log.spec)}})
    assert len(by_promotion) > 1
    for name, counts in by_promotion.items():
        entry = manifest["promotions"][name]
        assert {key: entry[key] for key in counts} == counts
        days = [day for day, of_day in manifest["days"].items() if of_day["promotion"] == name]
        assert (entry["first_day"], entry["last_day"]) == (min(days), max(days))
        for key in counts:
            assert sum(manifest["days"][day][key] for day in days) == counts[key]


def test_what_made_the_examples_lies_beside_them(log, dataset):
    assert Config.load(dataset / "config.json") == config()
    assert FeatureSpec.load(dataset / "spec.json") == log.spec
    schema = read_schema(dataset / "schema.pbtxt")
    assert [feature.name for feature in schema.feature] == list(log.spec.names())
    (statistics,) = read_statistics(dataset / "statistics.pbtxt").datasets
    assert statistics.num_examples == len(log.rows())
    files = {path.name for path in dataset.iterdir() if path.is_file()}
    assert files == {
        "config.json",
        "manifest.json",
        "schema.pbtxt",
        "spec.json",
        "statistics.pbtxt",
        "statistics.zip",
    }


def test_two_runs_write_equal_bytes(events, dataset, tmp_path):
    manifest = build_dataset(events, tmp_path / "again", config())
    assert manifest == read_manifest(dataset, EXAMPLES)
    assert len(shards_of(dataset)) > 3
    assert shards_of(tmp_path / "again") == shards_of(dataset)


def test_shards_do_not_depend_on_the_order_of_the_logs_files_and_rows(log, dataset, tmp_path):
    table = log.table()
    parts = [table.slice(0, 150), table.slice(150, 3), table.slice(153)]
    for order in ([0, 1, 2], [2, 0, 1]):
        own = tmp_path / "".join(map(str, order))
        own.mkdir()
        for n, part in enumerate(order):
            pq.write_table(parts[part], own / f"{n}.parquet")
        target = own / "examples"
        build_dataset(open_event_log(own), target, config())
        assert shards_of(target) == shards_of(dataset)


@pytest.mark.parametrize(
    "features",
    [{"partitions": 3}, {"partitions": 50}, {"partitions": 0, "rows_per_partition": 100}],
)
def test_partitions_change_the_shards_and_not_the_rows(events, dataset, tmp_path, features):
    def rows(directory: Path) -> list[Any]:
        return sorted(shard_rows(sorted(directory.glob("*/part-*"))), key=repr)

    build_dataset(events, tmp_path / "examples", config(**features))
    assert rows(tmp_path / "examples") == rows(dataset)
    assert len(shards_of(tmp_path / "examples")) > len(shards_of(dataset))


def test_gzip_shards_hold_the_same_rows(events, dataset, tmp_path):
    build_dataset(events, tmp_path / "examples", config(gzip=True))
    names = shards_of(tmp_path / "examples")
    assert list(names) == [f"{name}.gz" for name in shards_of(dataset)]
    for name in names:
        plain = shard_rows([dataset / name.removesuffix(".gz")])
        assert shard_rows([tmp_path / "examples" / name]) == plain


def own_log(path: Path, times: Sequence[int]) -> EventLog:
    log = Log([event(1, 2, "click", time) for time in times])
    write_event_log(path, [log.table()], description={})
    return open_event_log(path)


@pytest.mark.parametrize(
    ("first", "last", "observed"),
    [
        ("2024-02-01", "2024-02-28", ""),  # before the first window
        ("2024-03-02", "2024-03-04", ""),  # in a window that is not over
        ("2024-03-02", "2024-03-20", "2024-03-05T12:00"),  # nor observed to its end
    ],
)
def test_no_examples_are_an_error_that_names_windows_and_days(tmp_path, first, last, observed):
    log = own_log(tmp_path / "events", [to_ms(first, ZONE), to_ms(last, ZONE)])
    settings = Config(calendar=CALENDAR, labels=LabelsConfig(observed_until=observed))
    with pytest.raises(DataError) as caught:
        build_dataset(log, tmp_path / "out" / "examples", settings)
    message = str(caught.value)
    assert f"{first}..{last}" in message
    assert "[calendar]" in message
    assert ("a 2024-03-02..2024-03-05" in message) == (first == "2024-03-02")
    assert ("none" in message) == (first != "2024-03-02")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_log_ends_with_the_local_day_of_its_last_event(tmp_path):
    end = to_ms("2024-03-06", ZONE)  # of promotion a
    log = own_log(tmp_path / "events", [to_ms("2024-03-02", ZONE), end - DAY])
    manifest = build_dataset(log, tmp_path / "examples", Config(calendar=CALENDAR))
    assert manifest["observed_until_ms"] == end
    assert manifest["rows"] == 1


def test_observed_until_is_the_setting_or_the_end_of_the_last_day():
    calendar = calendar_of(CALENDAR)
    last = to_ms("2024-03-05T23:59", ZONE)
    assert observed_until(last, "", calendar) == to_ms("2024-03-06", ZONE)
    assert observed_until(last + 60_000, "", calendar) == to_ms("2024-03-07", ZONE)
    assert observed_until(last, "2024-03-05T12:00", calendar) == to_ms("2024-03-05T12:00", ZONE)


def test_calendar_is_ones_own_or_a_built_in_one():
    assert [p.name for p in calendar_of(CALENDAR).promotions] == ["a", "b", "c", "d"]
    assert calendar_of(CalendarConfig(built_in="taobao")) == built_in("taobao")


def full_disk(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, until a call that finds no space."""
    counter = iter(range(calls))

    def limited(*arguments: Any, **named: Any) -> Any:
        if next(counter, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*arguments, **named)

    return limited


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (pipeline, "write_run", 0),
        (pipeline, "write_run", 4),
        (pipeline, "write_timeline", 1),
        (RecordWriter, "write", 2),
        (output, "write_schema", 0),
        (output, "write_manifest", 0),
    ],
)
def test_a_full_disk_publishes_nothing_and_the_next_run_goes_on(
    events, tmp_path, monkeypatch, owner, name, calls
):
    target = tmp_path / "examples"
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full_disk(getattr(owner, name), calls))
        with pytest.raises(OutputError, match="no space left"):
            build_dataset(events, target, config(partitions=3))
    assert not target.exists()
    build_dataset(events, target, config(partitions=3))
    verify_manifest(target)
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]
    build_dataset(events, tmp_path / "fresh", config(partitions=3))
    assert shards_of(target) == shards_of(tmp_path / "fresh")


@pytest.mark.parametrize("remote", [True, False])
def test_a_stream_is_neither_remote_nor_an_update(events, tmp_path, remote):
    target = location("memory://examples") if remote else tmp_path / "examples"
    with pytest.raises(ValueError, match="`as_observed_from` goes with a local `target`"):
        build_dataset(events, target, config(), update=not remote, as_observed_from=1)


def test_an_existing_dataset_is_replaced_only_if_asked_and_only_as_a_whole(
    events, tmp_path, monkeypatch
):
    target = tmp_path / "examples"
    build_dataset(events, target, config(partitions=2))
    before = shards_of(target)
    with pytest.raises(OutputError, match="--overwrite"):
        build_dataset(events, target, config())
    assert shards_of(target) == before

    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "write", full_disk(RecordWriter.write, 2))
        with pytest.raises(OutputError, match="no space left"):
            build_dataset(events, target, config(), overwrite=True)
    assert shards_of(target) == before
    verify_manifest(target)

    build_dataset(events, target, config(), overwrite=True)
    verify_manifest(target)
    assert shards_of(target) != before
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]


def test_features_of_the_default_configuration_are_written(tmp_path):
    """All defaults but the calendar: no setting above is needed for a run."""
    log = own_log(tmp_path / "events", [to_ms("2024-03-02", ZONE), to_ms("2024-03-06", ZONE)])
    manifest = build_dataset(log, tmp_path / "examples", Config(calendar=CALENDAR))
    spec = FeatureSpec.load(tmp_path / "examples" / "spec.json")
    windows = len(FeaturesConfig().windows_hours) + 1
    assert spec["user_counts"].length == len(FeaturesConfig().count_kinds) * windows
    assert manifest["promotions"].keys() == {"a"}
