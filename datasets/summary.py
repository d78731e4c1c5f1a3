"""What an event log holds, counted table by table: rows, kinds, users, items, first and last."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cmdcm.core.errors import DataError
from cmdcm.datasets.events import EVENT_KINDS, REQUIRED_COLUMNS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MERGE_VALUES = 1 << 18


class DistinctCounter:
    """Counts distinct values exactly; holds each of them once, and as many waiting at the most.

    Example:
        >>> counter = DistinctCounter()
        >>> counter.add(pa.chunked_array([[1, 2], [2]]))
        >>> counter.count()
        2
    """

    def __init__(self) -> None:
        self._known = pl.Series()
        self._waiting: list[pl.Series] = []
        self._waiting_values = 0

    def add(self, values: pa.ChunkedArray) -> None:
        """Takes the values of one column of a table."""
        unique = pl.Series(values).unique()
        self._waiting.append(unique)
        self._waiting_values += len(unique)
        if self._waiting_values > max(_MERGE_VALUES, len(self._known)):
            self._merge()

    def count(self) -> int:
        """Returns the number of distinct values so far."""
        self._merge()
        return len(self._known)

    def _merge(self) -> None:
        if self._waiting:
            known = [self._known] if len(self._known) else []
            self._known = pl.concat([*known, *self._waiting]).unique()
            self._waiting, self._waiting_values = [], 0


class EventSummary:
    """Counts over tables that keep the contract; `rows` is the number of events so far."""

    def __init__(self) -> None:
        self.rows = 0
        self._by_kind = dict.fromkeys(EVENT_KINDS, 0)
        self._users = DistinctCounter()
        self._items = DistinctCounter()
        self._first_ms: int | None = None
        self._last_ms: int | None = None

    def add(self, table: pa.Table, where: str) -> None:
        """Counts the events of a table that has the required columns.

        Raises:
            DataError: A null key or an unknown kind; the message begins with `where`.
        """
        for name in REQUIRED_COLUMNS:
            if nulls := table[name].null_count:
                raise DataError(f"{where}: column {name!r} has {nulls} nulls; keys are required")
        if not table.num_rows:
            return
        self.rows += table.num_rows
        for entry in table["kind"].value_counts().to_pylist():
            if entry["values"] not in self._by_kind:
                raise DataError(
                    f"{where}: unknown event kind {entry['values']!r}; there are {EVENT_KINDS}"
                )
            self._by_kind[entry["values"]] += entry["counts"]
        self._users.add(table["user_id"])
        self._items.add(table["item_id"])
        bounds = pc.min_max(table["timestamp"].cast(pa.int64())).as_py()
        first_ms, last_ms = bounds["min"], bounds["max"]
        self._first_ms = first_ms if self._first_ms is None else min(first_ms, self._first_ms)
        self._last_ms = last_ms if self._last_ms is None else max(last_ms, self._last_ms)

    def result(self) -> dict[str, Any]:
        """Returns the counts under the names that a log's manifest uses."""
        return {
            "rows": self.rows,
            "rows_by_kind": {kind: count for kind, count in self._by_kind.items() if count},
            "users": self._users.count(),
            "items": self._items.count(),
            "first_timestamp": _iso(self._first_ms),
            "last_timestamp": _iso(self._last_ms),
        }


def _iso(timestamp_ms: int | None) -> str | None:
    if timestamp_ms is None:
        return None
    return (_EPOCH + timedelta(milliseconds=timestamp_ms)).isoformat(timespec="milliseconds")
