"""From columns of a raw format to the event contract: what a row must hold to become an event.

The same checks for every format, a block of rows at a time and each row by itself, so that neither
the size of a block nor a neighbour decides what becomes of a row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cmdcm.core.config import EventsConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import to_ms
from cmdcm.datasets.events import EVENT_KINDS, REQUIRED_COLUMNS, TIME_TYPE, event_schema
from cmdcm.datasets.log import kind_array
from cmdcm.datasets.readers.report import ImportReport

FIRST_MS = to_ms("1990-01-01", "UTC")
END_MS = to_ms("2100-01-01", "UTC")
DROP = ""
"""Stands for the kind of events that are known and left out."""
MALFORMED_TIME = "time is not parseable"
_DROPPED = -1
_PARSED = "parsed "
_REASON = _PARSED + "reason"
_TIME_RANGE = "time is outside 1990 to 2099"
_UNKNOWN_KIND = "unknown event kind"


@dataclass(frozen=True)
class Column:
    """How one column of the contract comes out of a raw column.

    Attributes:
        name: Name in the contract.
        raw: Name in the source.
        value: Its value over the raw columns; null where the raw value is faulty or absent.
            Of `kind` it is the index into `EVENT_KINDS`, of `timestamp` UTC milliseconds.
        fault: The reason of a rejection when the raw value is there and `value` is null.
    """

    name: str
    raw: str
    value: pl.Expr
    fault: str = ""


def integer(name: str, raw: str) -> Column:
    """A column of 64-bit integers."""
    value = pl.col(raw).cast(pl.Int64, strict=False)
    return Column(name, raw, value, f"{raw} is not an integer")


def text(name: str, raw: str) -> Column:
    """A column of strings."""
    return Column(name, raw, pl.col(raw).cast(pl.String))


def price(raw: str) -> Column:
    """The column `price`: a finite number that is not negative."""
    number = pl.col(raw).cast(pl.Float64, strict=False)
    value = pl.when(number.is_between(0, float("inf"), closed="left")).then(number)
    return Column("price", raw, value, f"{raw} is not a number from 0 up")


def kind(raw: str, kinds: Mapping[str, str]) -> Column:
    """The column `kind`: raw values and what they mean, `DROP` for the ones to leave out."""
    words = pl.col(raw).cast(pl.String)
    value = pl.lit(None, pl.Int8)
    for raw_value, name in kinds.items():
        index = _DROPPED if name == DROP else EVENT_KINDS.index(name)
        value = pl.when(words == raw_value).then(pl.lit(index, pl.Int8)).otherwise(value)
    return Column("kind", raw, value, _UNKNOWN_KIND)


def unix_time(raw: str, unit_ms: int) -> Column:
    """The column `timestamp` from integers that count units since 1970 in UTC."""
    units = pl.col(raw).cast(pl.Int64, strict=False)
    value = units.clip(-END_MS, END_MS) * unit_ms
    return Column("timestamp", raw, value, MALFORMED_TIME)


def local_time(raw: str, naive: pl.Expr, timezone: str) -> Column:
    """The column `timestamp` from a naive time in a time zone; of a repeated hour the first."""
    local = naive.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    value = local.dt.cast_time_unit("ms").cast(pl.Int64)
    return Column("timestamp", raw, value, MALFORMED_TIME)


class Intake:
    """Turns blocks of raw rows into tables of events and keeps the report.

    Args:
        columns: The columns of the log, the required ones among them.
        config: Bounds of the time range, and whether times have to be in order.
        report: Counts every row.
        string_ids: Identifier columns that hold strings.

    Raises:
        ConfigError: `events.start` is not before `events.end`.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        config: EventsConfig,
        report: ImportReport,
        string_ids: Sequence[str] = (),
    ) -> None:
        self.schema = event_schema([column.name for column in columns], string_ids)
        self._report = report
        self._values = [column.value.alias(_PARSED + column.name) for column in columns]
        self._kind_raw = next(column.raw for column in columns if column.name == "kind")
        self._reasons, self._reason = _reasons(columns)
        self._start_ms = to_ms(config.start, report.timezone) if config.start else FIRST_MS
        self._end_ms = to_ms(config.end, report.timezone) if config.end else END_MS
        if self._start_ms >= self._end_ms:
            raise ConfigError(f"events.start = {config.start!r} is not before {config.end!r}")
        self._require_order = config.require_time_order
        self._last = (FIRST_MS, 0)

    def accept(
        self, raw: pl.DataFrame, lines: npt.NDArray[np.int64], example: Callable[[int], str]
    ) -> pa.Table:
        """Returns the events of a block, after every row is counted in the report.

        Args:
            raw: The raw columns.
            lines: [rows] where each row stands in the source, from 1 and increasing.
            example: Gives the source's text of the row with an index.

        Raises:
            DataError: A row is earlier than the one before it, where the settings forbid it.
        """
        self._report.rows_read += raw.height
        frame = raw.with_columns(self._values).with_columns(self._reason.alias(_REASON))
        codes = frame[_REASON].to_numpy()
        if codes.any():
            for code in np.unique(codes[codes > 0]):
                rows = np.flatnonzero(codes == code)
                reason = self._reasons[code - 1]
                self._report.reject(reason, len(rows), lines[rows], example(int(rows[0])))
            frame, lines = frame.filter(pl.col(_REASON) == 0), lines[codes == 0]
        if self._require_order:
            self._check_order(frame[_PARSED + "timestamp"].to_numpy(), lines)
        frame = self._drop(frame)
        table = self._table(frame)
        self._report.accept(table)
        return table

    def _check_order(self, instants: npt.NDArray[np.int64], lines: npt.NDArray[np.int64]) -> None:
        if not len(instants):
            return
        steps = np.diff(instants, prepend=self._last[0])
        if (steps < 0).any():
            at = int(np.flatnonzero(steps < 0)[0])
            before = int(lines[at - 1]) if at else self._last[1]
            place = self._report.place
            raise DataError(
                f"{self._report.source}: times are out of order: {place} {lines[at]:,} is earlier "
                f"than {place} {before:,}. Sort the input, or set events.require_time_order=false."
            )
        self._last = (int(instants[-1]), int(lines[-1]))

    def _drop(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Leaves out the kinds that are not wanted, then what lies outside [start, end)."""
        kinds = pl.col(_PARSED + "kind")
        left_out = frame.filter(kinds == _DROPPED)
        if left_out.height:
            for value, count in left_out[self._kind_raw].value_counts(sort=True).iter_rows():
                self._report.drop(f"kind {value!r} is left out", count)
            frame = frame.filter(kinds != _DROPPED)
        inside = pl.col(_PARSED + "timestamp").is_between(
            self._start_ms, self._end_ms, closed="left"
        )
        kept = frame.filter(inside)
        self._report.drop("outside [events.start, events.end)", frame.height - kept.height)
        return kept

    def _table(self, frame: pl.DataFrame) -> pa.Table:
        arrays = []
        for column in self.schema:
            values = frame[_PARSED + column.name]
            if column.name == "kind":
                arrays.append(kind_array(values.to_numpy()))
            elif column.name == "timestamp":
                arrays.append(values.to_arrow().cast(TIME_TYPE))
            else:
                arrays.append(values.to_arrow().cast(column.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _reasons(columns: Sequence[Column]) -> tuple[list[str], pl.Expr]:
    """The reasons of a rejection, and the number (from 1) of a row's first one or 0."""
    checks: list[tuple[str, pl.Expr]] = []
    for column in columns:
        absent, unusable = pl.col(column.raw).is_null(), pl.col(_PARSED + column.name).is_null()
        if column.name in REQUIRED_COLUMNS:
            checks.append((f"{column.raw} is empty", absent))
        if column.fault:
            checks.append((column.fault, unusable & ~absent))
        if column.name == "timestamp":
            in_range = pl.col(_PARSED + "timestamp").is_between(FIRST_MS, END_MS, closed="left")
            checks.append((_TIME_RANGE, ~in_range))
    reason = pl.lit(0, pl.UInt8)
    for number, (_, condition) in reversed(list(enumerate(checks, start=1))):
        reason = pl.when(condition).then(pl.lit(number, pl.UInt8)).otherwise(reason)
    return [name for name, _ in checks], reason
