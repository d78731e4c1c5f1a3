"""The log as it was at an instant: the one place where the as-of date is enforced.

A snapshot is an event log of its own (contract 1) with one file for each local month, its rows in
one order. It holds no event dated at or after the as-of instant, and every later step reads the
snapshot alone. Equal events give equal files, however the source had cut and ordered them: what is
appended to the source later changes nothing.

Of a `{YYYY-MM-DD}` source the directories of later days are not opened; of other sources the row
groups that begin at or after the instant are not read.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest, sha256, staged_directory, write_manifest
from cmdcm.core.locations import Location
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.datasets.events import KIND_ENUM
from cmdcm.datasets.log import (
    EventLog,
    Slice,
    kind_array,
    open_event_log,
    open_parquet,
    parquet_files,
)
from cmdcm.datasets.spans import DAY, day_directories
from cmdcm.datasets.summary import EventSummary

_ROW_GROUP = 1 << 18
_GATHERED = 4_000_000


def source_files(path: Location, last_day: str) -> list[Location]:
    """Returns the Parquet files of a source that may hold events up to a day.

    Raises:
        DataError: There are none.
    """
    if DAY in str(path):
        _, days = day_directories(path, "", last_day, allow_missing_days=True)
        return [file for day in days for file in parquet_files(day)]
    return list(parquet_files(path))


def source_fingerprint(path: Location, last_day: str) -> dict[str, Any]:
    """Returns what tells a changed source from an unchanged one, without reading events.

    Local files by size and time of change, remote ones by size. A changed fingerprint makes the
    snapshot anew; equal events then still give an equal snapshot.
    """
    found = {}
    for file in source_files(path, last_day):
        stat = file.stat()
        changed = stat.st_mtime_ns if isinstance(file, Path) else 0
        found[str(file)] = [stat.st_size, changed]
    text = json.dumps(found, sort_keys=True)
    return {
        "files": len(found),
        "bytes": sum(size for size, _ in found.values()),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
    }


def take_snapshot(
    source: Location, target: Path, calendar: PromotionCalendar, as_of_ms: int, last_day: str
) -> dict[str, Any]:
    """Writes the events of a source that are dated before an instant.

    Args:
        source: A log, a directory of Parquet, or a `{YYYY-MM-DD}` path.
        target: The snapshot.
        calendar: Its zone cuts the months.
        as_of_ms: Exclusive, UTC ms.
        last_day: Last local day before it (ISO).

    Returns:
        The snapshot's manifest.

    Raises:
        DataError: No event before the instant, or a source that `open_event_log` refuses.
    """
    log = open_event_log(source, last_day=last_day, allow_missing_days=True)
    with staged_directory(target, overwrite=True) as staging:
        runs: dict[str, list[Path]] = {}
        folder = staging / "runs"
        folder.mkdir()
        for number, table in enumerate(_gathered(_before(log, as_of_ms))):
            times = table["timestamp"].cast(pa.int64()).to_numpy()
            months = calendar.local_days(times).astype("datetime64[M]")
            for month in np.unique(months):
                run = folder / f"{month}-{number:06d}.arrow"
                _frame(table.filter(pa.array(months == month))).write_ipc(run)
                runs.setdefault(str(month), []).append(run)
        if not runs:
            raise DataError(f"{source} has no event before the as-of instant")
        summary = EventSummary()
        for month, parts in sorted(runs.items()):
            frame = pl.concat([pl.read_ipc(part) for part in parts])
            table = _table(frame.sort(frame.columns), log.schema)
            summary.add(table, f"events of {month}")
            pq.write_table(
                table, staging / f"{month}.parquet", compression="zstd", row_group_size=_ROW_GROUP
            )
            for part in parts:
                part.unlink()
        folder.rmdir()
        write_manifest(
            staging,
            {
                "kind": "events",
                "resolution": log.manifest["resolution"],
                "columns": log.schema.names,
                **summary.result(),
            },
        )
    return read_manifest(target, "events")


def snapshot_digest(snapshot: Path) -> str:
    """Returns the digest of a snapshot's events."""
    files = read_manifest(snapshot, "events")["files"]
    text = json.dumps({name: entry["sha256"] for name, entry in files.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def share_files(snapshot: Path, earlier: Path) -> int:
    """Makes the months that an earlier snapshot has as well take up their space once.

    A file whose bytes are those of the earlier one becomes a hard link to it. Nothing ever writes
    into a file of a snapshot, and either snapshot may be deleted. Where the file system has no
    links all stays as it is.

    Returns:
        How many files are shared.
    """
    known = read_manifest(earlier, "events")["files"]
    shared = 0
    for name, entry in read_manifest(snapshot, "events")["files"].items():
        other, link = earlier / name, snapshot / f".{name}.link"
        # The manifest says what the earlier file was; what it is now its bytes say.
        if known.get(name) != entry or not other.exists() or sha256(other) != entry["sha256"]:
            continue
        shared += 1
        if other.samefile(snapshot / name):
            continue
        link.unlink(missing_ok=True)
        try:
            os.link(other, link)
        except OSError:
            return shared - 1
        link.replace(snapshot / name)
    return shared


def _before(log: EventLog, as_of_ms: int) -> Iterator[pa.Table]:
    """Yields the events before an instant; row groups that begin later are not read."""
    bound = pa.scalar(as_of_ms, pa.timestamp("ms", tz="UTC"))
    for file in log.files:
        with open_parquet(file) as parquet:
            groups = tuple(
                n for n in range(parquet.metadata.num_row_groups) if _begins(parquet, n) < as_of_ms
            )
        if not groups:
            continue
        for table in log.read(Slice(file, groups), log.schema.names):
            kept = table.filter(pc.less(table["timestamp"], bound))
            if kept.num_rows:
                yield kept


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Joins tables, so that a log in no order of time makes few runs for each month."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(t.num_rows for t in waiting) >= _GATHERED:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _begins(parquet: pq.ParquetFile, group: int) -> float:
    """The first timestamp of a row group in UTC ms; minus infinity where no statistics tell."""
    place = parquet.schema_arrow.get_field_index("timestamp")
    statistics = parquet.metadata.row_group(group).column(place).statistics
    if statistics is None or not statistics.has_min_max:
        return float("-inf")
    try:
        return float(statistics.min.timestamp() * 1000)
    except AttributeError:
        return float("-inf")


def _frame(table: pa.Table) -> pl.DataFrame:
    """As Polars sorts and stores them: `kind` by the order of kinds."""
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.with_columns(pl.col("kind").cast(pl.String).cast(KIND_ENUM))


def _table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    codes = frame["kind"].to_physical().to_numpy()
    plain = frame.drop("kind").to_arrow()
    columns = [
        kind_array(codes) if field.name == "kind" else plain[field.name].cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
