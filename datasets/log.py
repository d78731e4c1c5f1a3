"""The event log on disk: contract 1 (`cmdcm.datasets.events`) as a directory of Parquet parts.

    DIR/part-00000.parquet ...   about a million events each, in the order of the source
    DIR/manifest.json            what the log holds, and size and SHA-256 of every part

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
from cmdcm.datasets.events import (
    COLUMNS,
    EVENT_KINDS,
    KIND_ENUM,
    KIND_TYPE,
    REQUIRED_COLUMNS,
    check_schema,
)
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
        path: The directory, or the one file.
        schema: The columns that the log has, in the contract's order and types.
        files: The Parquet parts in the order of the log.
        manifest: `rows`, `rows_by_kind`, `users`, `items`, `first_timestamp`, `last_timestamp`,
            `columns`, `resolution` (`ms`, `second`, `hour` or `day`), and what its writer added.
    """

    path: Path
    schema: pa.Schema
    files: tuple[Path, ...]
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
        schema = pa.schema([self.schema.field(name) for name in names])
        for file in self.files:
            with open_parquet(file) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS, columns=names):
                    yield _to_contract(batch, schema, file)

    def scan(self) -> pl.LazyFrame:
        """Returns the log as a Polars query; `kind` is a `KIND_ENUM`."""
        strings = [field.name for field in self.schema if field.type == pa.string()]
        return (
            pl.scan_parquet(list(self.files))
            .select(self.schema.names)
            .with_columns(
                pl.col("kind").cast(pl.String).cast(KIND_ENUM),
                # One's own Parquet may hold them dictionary-encoded, a Categorical in Polars.
                pl.col(strings).cast(pl.String),
            )
        )


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


def open_event_log(path: Path) -> EventLog:
    """Opens a log that `write_event_log` wrote, or one's own Parquet that keeps the contract.

    One's own Parquet is a file, or a directory of `*.parquet` files taken in the order of their
    names; its key columns are read once here, to check them and to build the manifest.

    Raises:
        DataError: Nothing there, not an event log, a part is missing or cut short, or a column
            that breaks the contract; names the file and the column.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"event log not found: {path}; `cmdcm import` makes one from raw logs")
    if (path / MANIFEST).exists():
        manifest = read_manifest(path, "events")
        files = tuple(path / name for name in sorted(manifest["files"]))
        for file in files:
            size = file.stat().st_size if file.exists() else None
            if size != manifest["files"][file.name]["bytes"]:
                fault = "is missing" if size is None else f"has {size} bytes, the manifest differs"
                raise DataError(f"{path}: part {file.name} {fault}; make the log again")
        return EventLog(path, _common_schema(files), files, manifest)
    files = parquet_files(path)
    log = EventLog(path, _common_schema(files), files, {})
    summary = EventSummary()
    for table in log.batches(REQUIRED_COLUMNS):
        summary.add(table, str(path))
    if not summary.rows:
        raise DataError(f"{path} holds no events")
    manifest = {"kind": "events", "resolution": "ms", "columns": log.schema.names}
    return EventLog(path, log.schema, files, {**manifest, **summary.result()})


def parquet_files(path: Path) -> tuple[Path, ...]:
    """Returns `path` itself if it is a file, else the Parquet files below it by name.

    Raises:
        DataError: Nothing there, or no Parquet file in the directory.
    """
    if path.is_file():
        return (path,)
    if not path.exists():
        raise DataError(f"input not found: {path}")
    hidden = (".", "_")
    files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith(hidden))
    if not files:
        raise DataError(f"no *.parquet file in {path}")
    return tuple(files)


@contextlib.contextmanager
def open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file; a failure to open or to read is a DataError that names it."""
    try:
        with pq.ParquetFile(file) as parquet:
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


def _common_schema(files: Sequence[Path]) -> pa.Schema:
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


def _to_contract(batch: pa.RecordBatch, schema: pa.Schema, file: Path) -> pa.Table:
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
