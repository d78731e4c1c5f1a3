"""One's own events in Parquet: a file, or a directory of `*.parquet` files in the order of names.

`events.columns` says which column of the file is which of the contract, `events.kinds` what the
values of `kind` mean; what has the contract's own names and values needs no mention. Types:

- identifiers: integers or strings; `detail`, `session_id`, `request_id`: the same, kept as strings;
- `kind`: strings or integers (whose digits `events.kinds` maps);
- `timestamp`: a timestamp with a time zone; without one, or a date, it is a wall-clock time in the
  calendar's zone; integers are Unix seconds, milliseconds or microseconds, whichever puts them into
  the years 1990 to 2099 (no two do); strings are refused, for their formats are not guessed;
- `price`: any number, NaN for none; `quantity`, `position`: integers.

Finer times than a millisecond are cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cmdcm.core.config import EventsConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.locations import Location
from cmdcm.datasets.events import COLUMNS, EVENT_KINDS, ID_COLUMNS, REQUIRED_COLUMNS
from cmdcm.datasets.log import BATCH_ROWS, open_parquet, parquet_files
from cmdcm.datasets.readers.intake import (
    DROP,
    END_MS,
    FIRST_MS,
    MALFORMED_TIME,
    Column,
    Intake,
    integer,
    kind,
    local_time,
    price,
    text,
)
from cmdcm.datasets.readers.report import ImportReport

_UNIX_UNITS = (("seconds", 1000, 1), ("milliseconds", 1, 1), ("microseconds", 1, 1000))
"""Name of a Unix time's unit, and the factor and divisor that make it milliseconds."""


@dataclass
class _Plan:
    """How the columns of the files become those of the contract."""

    types: dict[str, pa.DataType]
    columns: list[Column] = field(default_factory=list)
    string_ids: list[str] = field(default_factory=list)


def read_parquet(
    path: Path,
    config: EventsConfig,
    report: ImportReport,
    *,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[pa.Table]:
    """Yields the events of one's own Parquet; see `cmdcm.datasets.readers.read`."""
    kinds = _kinds(config)
    files = parquet_files(path)
    plan: _Plan | None = None
    first_row, bytes_before = 1, 0
    for file in files:
        size = file.stat().st_size
        with open_parquet(file) as parquet:
            sources = _sources(parquet.schema_arrow, config, file)
            if plan is None:
                plan = _plan(parquet, sources, kinds, report, file)
                intake = Intake(plan.columns, config, report, plan.string_ids)
            _check_same(plan, parquet.schema_arrow, file, files[0])
            names = list(plan.types)
            rows_of_file = 0
            for batch in parquet.iter_batches(BATCH_ROWS, columns=names):
                raw = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch]))).select(
                    [_cleaned(name, type_) for name, type_ in plan.types.items()]
                )
                rows = np.arange(first_row, first_row + raw.height)
                table = intake.accept(raw, rows, _example(raw, file, rows_of_file))
                first_row += raw.height
                rows_of_file += raw.height
                if on_bytes:
                    on_bytes(bytes_before + size * rows_of_file // parquet.metadata.num_rows)
                if table.num_rows:
                    yield table
        bytes_before += size


def _kinds(config: EventsConfig) -> dict[str, str]:
    for value, name in config.kinds.items():
        if name not in EVENT_KINDS and name != DROP:
            raise ConfigError(
                f"events.kinds maps {value!r} to {name!r}; "
                f'expected one of {EVENT_KINDS}, or "" to leave such events out'
            )
    return {**{name: name for name in EVENT_KINDS}, **config.kinds}


def _sources(schema: pa.Schema, config: EventsConfig, file: Location) -> dict[str, str]:
    """Returns column of the contract -> column of the file, in the order of the contract."""
    unknown = sorted(set(config.columns) - set(COLUMNS))
    if unknown:
        raise ConfigError(f"events.columns names {unknown}; the contract has {list(COLUMNS)}")
    faults = []
    sources = {}
    for name in COLUMNS:
        source = config.columns.get(name, name)
        if source in schema.names:
            sources[name] = source
        elif name in config.columns:
            faults.append(f"column {source!r} (events.columns.{name}) is missing")
        elif name in REQUIRED_COLUMNS:
            faults.append(
                f"column {name!r} is missing; if another one holds it, "
                f"set events.columns.{name} to its name"
            )
    if faults:
        raise DataError(f"{file}: {'; '.join(faults)}. The file has {schema.names}")
    return sources


def _plan(
    parquet: pq.ParquetFile,
    sources: dict[str, str],
    kinds: dict[str, str],
    report: ImportReport,
    file: Location,
) -> _Plan:
    schema = parquet.schema_arrow
    plan = _Plan({source: schema.field(source).type for source in sources.values()})
    faults = []
    for name, source in sources.items():
        type_ = plan.types[source]
        column: Column | None = None
        expected = ""
        if name == "timestamp":
            column = _time(parquet, source, type_, report)
            expected = "a timestamp; cast it, for example with polars' str.to_datetime"
        elif name == "kind":
            column = kind(source, kinds) if _is_text(type_) or _is_integer(type_) else None
            expected = "strings or integers"
        elif name == "price":
            numeric = _is_integer(type_) or pa.types.is_floating(type_)
            column = price(source) if numeric or pa.types.is_decimal(type_) else None
            expected = "numbers"
        elif name in ("quantity", "position"):
            column = _integer32(name, source) if _is_integer(type_) else None
            expected = "integers"
        elif _is_text(type_):
            column = text(name, source)
            if name in ID_COLUMNS:
                plan.string_ids.append(name)
        elif _is_integer(type_):
            column = integer(name, source) if name in ID_COLUMNS else text(name, source)
        else:
            expected = "integers or strings"
        if column is None:
            faults.append(f"column {source!r} ({name}) is {type_}, expected {expected}")
        else:
            plan.columns.append(column)
    if faults:
        raise DataError(f"{file}: {'; '.join(faults)}")
    left_out = [name for name in schema.names if name not in plan.types]
    if left_out:
        report.notes.append(f"columns that are left out: {', '.join(left_out)}")
    return plan


def _time(
    parquet: pq.ParquetFile, source: str, type_: pa.DataType, report: ImportReport
) -> Column | None:
    """The column `timestamp`, or None for a type that does not tell the time."""
    value = pl.col(source)
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        instants = value.dt.cast_time_unit("ms").cast(pl.Int64)
        return Column("timestamp", source, instants, MALFORMED_TIME)
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        report.notes.append(f"{source!r} has no time zone: taken as time in {report.timezone}")
        return local_time(source, value.cast(pl.Datetime("ms")), report.timezone)
    if not _is_integer(type_):
        return None
    first = next(parquet.iter_batches(BATCH_ROWS, columns=[source]), None)
    values = np.zeros(0) if first is None else first[source].drop_null().to_numpy().astype(float)
    hits = [
        int(((values * factor / divisor >= FIRST_MS) & (values * factor / divisor < END_MS)).sum())
        for _, factor, divisor in _UNIX_UNITS
    ]
    if not any(hits):
        return None
    unit, factor, divisor = _UNIX_UNITS[int(np.argmax(hits))]
    report.notes.append(f"{source!r} holds integers: taken as Unix {unit}")
    bound = END_MS * divisor
    instants = value.cast(pl.Int64, strict=False).clip(-bound, bound) * factor // divisor
    return Column("timestamp", source, instants, MALFORMED_TIME)


def _integer32(name: str, source: str) -> Column:
    value = pl.col(source).cast(pl.Int32, strict=False)
    return Column(name, source, value, f"{source} is not a 32-bit integer")


def _is_integer(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_))


def _is_text(type_: pa.DataType) -> bool:
    values = type_.value_type if pa.types.is_dictionary(type_) else type_
    return bool(
        pa.types.is_string(values)
        or pa.types.is_large_string(values)
        or pa.types.is_string_view(values)
    )


def _cleaned(name: str, type_: pa.DataType) -> pl.Expr:
    """The raw column with one null for all that means "nothing", and strings as such."""
    column = pl.col(name)
    if _is_text(type_):
        strings = column.cast(pl.String)
        return pl.when(strings != "").then(strings).alias(name)
    if pa.types.is_floating(type_):
        return column.fill_nan(None)
    return column


def _check_same(plan: _Plan, schema: pa.Schema, file: Location, first: Location) -> None:
    for name, type_ in plan.types.items():
        other = schema.field(name).type if name in schema.names else "missing"
        if other != type_:
            raise DataError(f"{file}: column {name!r} is {other}, but {type_} in {first}")


def _example(raw: pl.DataFrame, file: Location, rows_before: int) -> Callable[[int], str]:
    def example(row: int) -> str:
        values = ", ".join(str(value) for value in raw.row(row))
        return f"{file.name} row {rows_before + row + 1}: {values}"

    return example
