"""The event log on disk: what is written is read back, whole or not at all."""

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import verify_manifest, write_manifest
from cmdcm.datasets import log as log_module
from cmdcm.datasets import summary as summary_module
from cmdcm.datasets.events import EVENT_KINDS, KIND_ENUM, TIME_TYPE, event_schema
from cmdcm.datasets.log import EventLog, kind_array, open_event_log, write_event_log
from cmdcm.datasets.summary import DistinctCounter

COLUMNS = ("user_id", "item_id", "kind", "timestamp", "price", "session_id")
T0 = 1_512_144_000_000


def events(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    missing = random.random(rows) < 0.3
    return pa.table(
        [
            pa.array(random.integers(0, 5, rows)),
            pa.array(random.integers(-(2**62), 2**62, rows)),
            kind_array(random.integers(0, len(EVENT_KINDS), rows)),
            pa.array(T0 + random.integers(0, 10**9, rows)).cast(TIME_TYPE),
            pa.array(random.random(rows), mask=missing),
            pa.array([f"s{k}" for k in range(rows)], mask=missing),
        ],
        schema=event_schema(COLUMNS),
    )


def write(target: Path, table: pa.Table, step: int = 7, **options: Any) -> dict[str, Any]:
    tables = (table.slice(start, step) for start in range(0, table.num_rows, step))
    return write_event_log(target, tables, description={"source": "test"}, **options)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def read_back(log: EventLog) -> pa.Table:
    return pa.concat_tables(log.batches())


@given(rows=st.integers(1, 60), step=st.integers(1, 70), part_rows=st.integers(1, 70))
@settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])
def test_round_trip_for_any_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: int, step: int, part_rows: int
) -> None:
    target = tmp_path_factory.mktemp("round") / "log"
    table = events(rows, seed=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_module, "PART_ROWS", part_rows)
        write(target, table, step)
    log = open_event_log(target)
    assert read_back(log).equals(table)
    parts = [pq.read_metadata(file).num_rows for file in log.files]
    assert parts == [part_rows] * (rows // part_rows) + [rows % part_rows] * (rows % part_rows > 0)
    verify_manifest(target)


def test_manifest_counts(tmp_path: Path) -> None:
    table = pa.table(
        [
            pa.array([1, 1, 2, 1]),
            pa.array([10, 11, 10, 10]),
            kind_array(np.array([1, 1, 5, 4])),
            pa.array([T0 + 5, T0 + 1, T0 + 9_000, T0 + 2]).cast(TIME_TYPE),
        ],
        schema=event_schema(),
    )
    manifest = write(tmp_path / "log", table, step=3)
    assert {key: value for key, value in manifest.items() if key != "files"} == {
        "kind": "events",
        "source": "test",
        "resolution": "ms",
        "rows": 4,
        "rows_by_kind": {"click": 2, "cart": 1, "purchase": 1},
        "users": 2,
        "items": 2,
        "first_timestamp": "2017-12-01T16:00:00.001+00:00",
        "last_timestamp": "2017-12-01T16:00:09.000+00:00",
        "columns": ["user_id", "item_id", "kind", "timestamp"],
    }
    assert open_event_log(tmp_path / "log").manifest == manifest


def test_batches_give_the_columns_asked_for(tmp_path: Path) -> None:
    table = events(50)
    write(tmp_path / "log", table)
    log = open_event_log(tmp_path / "log")
    columns = ["timestamp", "user_id"]
    assert pa.concat_tables(log.batches(columns)).equals(table.select(columns))
    with pytest.raises(DataError, match=r"no columns \['quantity'\]; it has \['user_id'"):
        next(log.batches(["quantity"]))


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "log", events(50))
    monkeypatch.setattr(log_module, "BATCH_ROWS", 20)
    sizes = [batch.num_rows for batch in open_event_log(tmp_path / "log").batches()]
    assert sum(sizes) == 50
    assert max(sizes) <= 20


def test_kind_indices_are_those_of_the_contract(tmp_path: Path) -> None:
    kinds = np.array([6, 0, 6, 3])
    table = events(4).set_column(2, event_schema().field("kind"), kind_array(kinds))
    frame = pl.DataFrame(pl.from_arrow(table)).with_columns(pl.col("kind").cast(pl.String))
    frame.write_parquet(tmp_path / "own.parquet")
    (batch,) = open_event_log(tmp_path / "own.parquet").batches(["kind"])
    (chunk,) = batch["kind"].chunks
    assert chunk.dictionary.to_pylist() == list(EVENT_KINDS)
    assert chunk.indices.to_pylist() == kinds.tolist()


def test_scan_is_the_log_in_polars(tmp_path: Path) -> None:
    table = events(50)
    write(tmp_path / "log", table)
    frame = open_event_log(tmp_path / "log").scan().collect()
    assert frame.schema["kind"] == KIND_ENUM
    assert frame.schema["timestamp"] == pl.Datetime("ms", "UTC")
    assert frame.columns == list(COLUMNS)
    assert frame["kind"].to_list() == table["kind"].to_pylist()
    assert frame["item_id"].to_list() == table["item_id"].to_pylist()


def test_description_is_read_after_the_last_table(tmp_path: Path) -> None:
    description = {"resolution": "ms"}

    def tables() -> Iterator[pa.Table]:
        yield events(3)
        description["resolution"] = "day"

    manifest = write_event_log(tmp_path / "log", tables(), description=description)
    assert manifest["resolution"] == "day"


# Nothing half-written, nothing that breaks the contract.


def test_no_events(tmp_path: Path) -> None:
    for tables in ([], [events(0)]):
        with pytest.raises(DataError, match="there are none"):
            write_event_log(tmp_path / "log", tables, description={})
    assert names(tmp_path) == []


def test_tables_that_break_the_contract(tmp_path: Path) -> None:
    good = events(3)
    null_user = pa.array([1, None, 2], pa.int64())
    broken = {
        r"column 'item_id' is missing": [good.drop_columns("item_id")],
        r"column 'user_id' is int32": [
            good.set_column(0, "user_id", good["user_id"].cast(pa.int32()))
        ],
        r"column 'colour' is not part": [good.append_column("colour", good["price"])],
        r"the schema changes": [good, good.drop_columns("price")],
        r"column 'user_id' has 1 nulls": [
            good.set_column(0, good.schema.field("user_id"), null_user)
        ],
    }
    for message, tables in broken.items():
        with pytest.raises(DataError, match=message):
            write_event_log(tmp_path / "log", tables, description={})
        assert names(tmp_path) == []


def test_existing_log_is_kept_unless_told(tmp_path: Path) -> None:
    old, new = events(9, seed=1), events(4, seed=2)
    write(tmp_path / "log", old)
    with pytest.raises(OutputError, match="pass --overwrite"):
        write(tmp_path / "log", new)
    assert read_back(open_event_log(tmp_path / "log")).equals(old)
    write(tmp_path / "log", new, overwrite=True)
    assert read_back(open_event_log(tmp_path / "log")).equals(new)
    assert names(tmp_path) == ["log"]


@pytest.mark.parametrize("exists", [False, True])
def test_disk_full_halfway_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    old = events(5, seed=3)
    if exists:
        write(tmp_path / "log", old)
    monkeypatch.setattr(log_module, "PART_ROWS", 10)
    write_table = pq.write_table

    def full_at_the_second_part(table: pa.Table, file: Path, **options: Any) -> None:
        write_table(table, file, **options)
        if file.name == "part-00001.parquet":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq, "write_table", full_at_the_second_part)
    with pytest.raises(OutputError, match=r"no space left while writing .*log; nothing was"):
        write(tmp_path / "log", events(30), overwrite=True)
    assert names(tmp_path) == ["log"] * exists
    if exists:
        assert read_back(open_event_log(tmp_path / "log")).equals(old)


# What is opened.


def test_own_parquet_needs_no_manifest(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "timestamp": pl.Series([T0, T0 + 1, T0 + 2]).cast(pl.Datetime("ms", "UTC")),
            "kind": ["click", "cart", "click"],
            "item_id": pl.Series(["a", "b", "a"]).cast(pl.Categorical),
            "user_id": [1, 1, 2],
        }
    )
    (tmp_path / "own").mkdir()
    frame[2:].write_parquet(tmp_path / "own/2.parquet")
    frame[:2].write_parquet(tmp_path / "own/1.parquet")
    log = open_event_log(tmp_path / "own")
    assert log.schema.names == ["user_id", "item_id", "kind", "timestamp"]
    assert log.schema.field("item_id").type == pa.string()
    assert read_back(log).to_pylist() == [
        {"user_id": user, "item_id": item, "kind": kind, "timestamp": instant(k)}
        for k, (user, item, kind) in enumerate(
            [(1, "a", "click"), (1, "b", "cart"), (2, "a", "click")]
        )
    ]
    assert log.scan().collect()["item_id"].to_list() == ["a", "b", "a"]
    assert log.manifest == {
        "kind": "events",
        "resolution": "ms",
        "rows": 3,
        "rows_by_kind": {"click": 2, "cart": 1},
        "users": 2,
        "items": 2,
        "first_timestamp": "2017-12-01T16:00:00.000+00:00",
        "last_timestamp": "2017-12-01T16:00:00.002+00:00",
        "columns": ["user_id", "item_id", "kind", "timestamp"],
    }


def instant(milliseconds: int) -> datetime:
    return datetime(2017, 12, 1, 16, microsecond=milliseconds * 1000, tzinfo=UTC)


def test_own_parquet_that_breaks_the_contract(tmp_path: Path) -> None:
    frame = open_frame()
    broken = {
        r"1\.parquet: column 'timestamp' is timestamp\[us, tz=UTC\]": frame.with_columns(
            pl.col("timestamp").dt.cast_time_unit("us")
        ),
        r"1\.parquet: unknown event kinds \['look'\]": frame.with_columns(kind=pl.lit("look")),
        r"column 'user_id' has 1 nulls": frame.with_columns(
            user_id=pl.when(pl.col("user_id") > 1).then(pl.col("user_id"))
        ),
        r"holds no events": frame.clear(),
    }
    for message, content in broken.items():
        content.write_parquet(tmp_path / "1.parquet")
        with pytest.raises(DataError, match=message):
            open_event_log(tmp_path)


def open_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [1, 2],
            "item_id": [3, 4],
            "kind": ["click", "cart"],
            "timestamp": pl.Series([T0, T0 + 1]).cast(pl.Datetime("ms", "UTC")),
        }
    )


def test_parts_of_different_columns(tmp_path: Path) -> None:
    open_frame().write_parquet(tmp_path / "1.parquet")
    open_frame().with_columns(price=pl.lit(1.0)).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet: columns"):
        open_event_log(tmp_path)


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"event log not found: .*none"):
        open_event_log(tmp_path / "none")
    with pytest.raises(DataError, match=r"no \*\.parquet file in"):
        open_event_log(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is how it begins, and no more")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        open_event_log(tmp_path)


def test_another_kind_of_artefact(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"kind": "examples"})
    with pytest.raises(DataError, match="holds 'examples', expected 'events'"):
        open_event_log(tmp_path)


def test_part_missing_or_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "log", events(50))
    part = tmp_path / "log/part-00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"part-00000\.parquet has \d+ bytes, the manifest differs"):
        open_event_log(tmp_path / "log")
    part.unlink()
    with pytest.raises(DataError, match=r"part-00000\.parquet is missing"):
        open_event_log(tmp_path / "log")


@given(chunks=st.lists(st.lists(st.integers(-5, 40)), max_size=12))
def test_distinct_counter(chunks: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary_module, "_MERGE_VALUES", 3)
        counter = DistinctCounter()
        for chunk in chunks:
            counter.add(pa.chunked_array([pa.array(chunk, pa.int64())]))
        assert counter.count() == len({value for chunk in chunks for value in chunk})
