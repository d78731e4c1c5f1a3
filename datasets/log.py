"""The event log on disk: contract 1 (`cmdcm.datasets.events`) as a directory of Parquet parts.

    DIR/part-00000.parquet ...   about a million events each, in the order of the source
    DIR/manifest.json            what the log holds, and size and SHA-256 of every part

A log may also be a series of such directories, one for each day on which its events arrived:
`DIR/{YYYY-MM-DD}` opens all of them as one log.

Writing streams and publishes all or nothing; reading streams too. At most a part is held at a
time, and the distinct user and item ids that are counted.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cmdcm.core.errors import DataError
from cmdcm.core.files import MANIFEST, read_manifest, staged_directory, write_manifest
from cmdcm.core.locations import Location
from cmdcm.datasets.events import (
    COLUMNS,
    EVENT_KINDS,
    KIND_ENUM,
    KIND_TYPE,
    REQUIRED_COLUMNS,
    check_schema,
)
from cmdcm.datasets.spans import DAY, day_directories
from cmdcm.datasets.summary import EventSummary

PART_ROWS = 1_000_000
BATCH_ROWS = 1 << 18
_KINDS = pa.array(EVENT_KINDS)
_MOSTLY_DISTINCT = ("item_id", "timestamp", "session_id", "request_id")
"""Columns for which a Parquet dictionary costs time and saves no space."""


@dataclass(frozen=True)
class EventLog:
    """An event log that was opened; build it with `open_event_log`.

    Attributes:
        path: The directory, the one file, or the part of a `{YYYY-MM-DD}` path before the day.
        schema: The columns that the log has, in the contract's order and types.
        files: The Parquet parts in the order of the log.
        manifest: `rows`, `rows_by_kind`, `users`, `items`, `first_timestamp`, `last_timestamp`,
            `columns`, `resolution` (`ms`, `second`, `hour` or `day`), and what its writer added.
    """

    path: Location
    schema: pa.Schema
    files: tuple[Location, ...]
    manifest: dict[str, Any]

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yields the events in order, in tables of at most `BATCH_ROWS` rows.

        The dictionary of `kind` is always `EVENT_KINDS`, so its indices are the order of kinds.

        Args:
            columns: Columns to read, in this order; all by default.

        Raises:
            DataError: A column is not in the log, or a part cannot be read.
        """
        names = self.schema.names if columns is None else list(columns)
        missing = [name for name in names if name not in self.schema.names]
        if missing:
            raise DataError(f"{self.path} has no columns {missing}; it has {self.schema.names}")
        for file in self.files:
            yield from self.read(Slice(file, None), names)

    def slices(self, rows: int) -> list[list["Slice"]]:
        """Divides the log into tasks of about `rows` events each, whole row groups of its files."""
        tasks: list[list[Slice]] = []
        left = 0
        for file in self.files:
            with open_parquet(file) as parquet:
                metadata = parquet.metadata
                for group in range(metadata.num_row_groups):
                    if left <= 0:
                        tasks.append([])
                        left = rows
                    if tasks[-1] and tasks[-1][-1].file == file:
                        last = tasks[-1].pop()
                        tasks[-1].append(Slice(file, (*(last.row_groups or ()), group)))
                    else:
                        tasks[-1].append(Slice(file, (group,)))
                    left -= metadata.row_group(group).num_rows
        return tasks

    def read(self, part: "Slice", columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yields the events of a slice as `batches` does."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        with open_parquet(part.file) as parquet:
            groups = part.row_groups
            if groups is None:
                groups = tuple(range(parquet.metadata.num_row_groups))
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
                yield _to_contract(batch, schema, part.file)

    def name_of(self, file: Location) -> str:
        """Returns a file's path below that of the log."""
        if file == self.path:
            return file.name
        return file.as_posix().removeprefix(self.path.as_posix()).lstrip("/")

    def scan(self) -> pl.LazyFrame:
        """Returns a local log as a Polars query; `kind` is a `KIND_ENUM`."""
        strings = [field.name for field in self.schema if field.type == pa.string()]
        return (
            pl.scan_parquet([str(file) for file in self.files])
            .select(self.schema.names)
            .with_columns(
                pl.col("kind").cast(pl.String).cast(KIND_ENUM),
                # One's own Parquet may hold them dictionary-encoded, a Categorical in Polars.
                pl.col(strings).cast(pl.String),
            )
        )


@dataclass(frozen=True)
class Slice:
    """Row groups of a file of a log; None for all of them."""

    file: Location
    row_groups: tuple[int, ...] | None


def write_event_log(
    target: Path,
    tables: Iterable[pa.Table],
    *,
    description: Mapping[str, Any],
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes tables of events as a log; a reader sees the whole log or nothing.

    Args:
        target: The directory to publish.
        tables: Tables of one schema that keeps the contract; consumed once, never all held.
        description: What else the manifest says (source, `resolution`, ...). It is read after the
            last table, so that whoever yields the tables may fill it on the way.
        overwrite: Replace an existing log.

    Returns:
        The manifest.

    Raises:
        DataError: No event at all, a schema that breaks the contract or changes, a null key.
        OutputError: `target` exists (without `overwrite`), cannot be written, or the disk is full.
    """
    where = f"events for {target}"
    summary = EventSummary()
    columns: list[str] = []
    with staged_directory(target, overwrite=overwrite) as staging:
        for number, part in enumerate(_parts(tables, where)):
            summary.add(part, where)
            columns = part.schema.names
            file = staging / f"part-{number:05d}.parquet"
            pq.write_table(
                part,
                file,
                compression="zstd",
                row_group_size=BATCH_ROWS,
                use_dictionary=[name for name in columns if name not in _MOSTLY_DISTINCT],
            )
        if not summary.rows:
            raise DataError(f"{where}: there are none; the input is empty or all of it was dropped")
        manifest = {"resolution": "ms", **description, **summary.result(), "columns": columns}
        write_manifest(staging, {**manifest, "kind": "events"})
        return read_manifest(staging, "events")


def open_event_log(
    path: Location, first_day: str = "", last_day: str = "", *, allow_missing_days: bool = False
) -> EventLog:
    """Opens a log that `write_event_log` wrote, or one's own Parquet that keeps the contract.

    One's own Parquet is a file, or a directory of `*.parquet` files taken in the order of their
    names; its key columns are read once here, to check them and to build the manifest. So it is
    with the days of a `{YYYY-MM-DD}` path, each of which may be either.

    Args:
        path: A file or directory, local or remote, or a path with `{YYYY-MM-DD}` in it.
        first_day: First day to take of a `{YYYY-MM-DD}` path (ISO); the first there is by default.
        last_day: Last day to take; the last there is by default.
        allow_missing_days: Take days that are not there for days without events.

    Raises:
        DataError: Nothing there, not an event log, a part is missing or cut short, a day between
            the first and the last is missing, or a column that breaks the contract; names the file
            and the column.
    """
    if DAY in str(path):
        base, days = day_directories(path, first_day, last_day, allow_missing_days)
        files = tuple(file for day in days for file in _files_of_day(day))
        described = {"first_span": days[0].as_posix(), "last_span": days[-1].as_posix()}
        described = {k: v.removeprefix(base.as_posix()).strip("/") for k, v in described.items()}
        return _summarized(base, files, described)
    if not path.exists():
        raise DataError(f"event log not found: {path}; `cmdcm import` makes one from raw logs")
    if (path / MANIFEST).exists():
        files, manifest = _written(path)
        return EventLog(path, _common_schema(files), files, manifest)
    return _summarized(path, parquet_files(path), {})


def _written(path: Location) -> tuple[tuple[Location, ...], dict[str, Any]]:
    """Returns files and manifest of a log that `write_event_log` wrote."""
    manifest = read_manifest(path, "events")
    files = tuple(path / name for name in sorted(manifest["files"]))
    for file in files:
        size = file.stat().st_size if file.exists() else None
        if size != manifest["files"][file.name]["bytes"]:
            fault = "is missing" if size is None else f"has {size} bytes, the manifest differs"
            raise DataError(f"{path}: part {file.name} {fault}; make the log again")
    return files, manifest


def _summarized(
    path: Location, files: tuple[Location, ...], described: Mapping[str, Any]
) -> EventLog:
    """Returns the log of Parquet files without a manifest of the whole; reads the key columns."""
    log = EventLog(path, _common_schema(files), files, {})
    summary = EventSummary()
    for table in log.batches(REQUIRED_COLUMNS):
        summary.add(table, str(path))
    if not summary.rows:
        raise DataError(f"{path} holds no events")
    manifest = {"kind": "events", "resolution": "ms", "columns": log.schema.names, **described}
    return EventLog(path, log.schema, files, {**manifest, **summary.result()})


def _files_of_day(path: Location) -> tuple[Location, ...]:
    return _written(path)[0] if (path / MANIFEST).exists() else parquet_files(path)


def parquet_files(path: Location) -> tuple[Location, ...]:
    """Returns `path` itself if it is a file, else the Parquet files below it by name.

    Raises:
        DataError: Nothing there, or no Parquet file in the directory.
    """
    if path.is_file():
        return (path,)
    if not path.exists():
        raise DataError(f"input not found: {path}")
    hidden = (".", "_")
    files = sorted(
        (file for file in path.rglob("*.parquet") if not file.name.startswith(hidden)),
        key=lambda file: file.as_posix(),
    )
    if not files:
        raise DataError(f"no *.parquet file in {path}")
    return tuple(files)


@contextlib.contextmanager
def open_parquet(file: Location) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file; a failure to open or to read is a DataError that names it."""
    try:
        with file.open("rb") as stream, pq.ParquetFile(stream) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def kind_array(indices: npt.NDArray[np.integer[Any]]) -> pa.DictionaryArray:
    """Returns the column `kind` for [rows] indices into `EVENT_KINDS`.

    Example:
        >>> kind_array(np.array([1, 5])).to_pylist()
        ['click', 'purchase']
    """
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int8)), _KINDS)


def _parts(tables: Iterable[pa.Table], where: str) -> Iterator[pa.Table]:
    """Regroups tables into parts of `PART_ROWS` rows; checks the schema of each."""
    schema: pa.Schema | None = None
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        if schema is None:
            schema = table.schema
            check_schema(schema, where)
        elif not table.schema.equals(schema):
            raise DataError(f"{where}: the schema changes from\n{schema}\nto\n{table.schema}")
        waiting.append(table)
        rows += table.num_rows
        while rows >= PART_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, PART_ROWS)
            waiting = [whole.slice(PART_ROWS)]
            rows -= PART_ROWS
    if rows:
        yield pa.concat_tables(waiting)


def _common_schema(files: Sequence[Location]) -> pa.Schema:
    """Returns the contract's view of the files' schema, which should be the same in all."""
    first: pa.Schema | None = None
    for file in files:
        with open_parquet(file) as parquet:
            stored = parquet.schema_arrow
        schema = pa.schema([_contract_field(field) for field in stored])
        check_schema(schema, str(file))
        if first is None:
            first = schema
        elif not schema.equals(first):
            raise DataError(f"{file}: columns\n{schema}\ndiffer from those of {files[0]}\n{first}")
    assert first is not None  # noqa: S101 - callers pass at least one file
    return pa.schema([first.field(name) for name in COLUMNS if name in first.names])


def _contract_field(field: pa.Field) -> pa.Field:
    """The field as the contract has it, where the file merely stores the same values otherwise."""
    type_ = field.type
    values = type_.value_type if pa.types.is_dictionary(type_) else type_
    if pa.types.is_string(values) or pa.types.is_large_string(values):
        type_ = KIND_TYPE if field.name == "kind" else pa.string()
    return pa.field(field.name, type_, nullable=field.name not in REQUIRED_COLUMNS)


def _to_contract(batch: pa.RecordBatch, schema: pa.Schema, file: Location) -> pa.Table:
    columns = []
    for field in schema:
        column = batch[field.name]
        if field.name == "kind":
            kinds = column.cast(pa.string())
            indices = pc.index_in(kinds, _KINDS)
            unknown = pc.filter(kinds, pc.is_null(indices)).drop_null().unique().to_pylist()
            if unknown:
                raise DataError(
                    f"{file}: unknown event kinds {sorted(unknown)}; there are {EVENT_KINDS}"
                )
            column = pa.DictionaryArray.from_arrays(indices.cast(pa.int8()), _KINDS)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
