"""What an import did with every row: accepted, rejected with a reason, or dropped."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmdcm.core.errors import DataError
from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar, to_ms
from cmdcm.datasets.summary import EventSummary

SHOWN_LINES = 5
_QUARTER_MS = HOUR_MS // 4
_SHOWN_CHARACTERS = 80


@dataclass
class Rejected:
    """Rows that were rejected for one reason.

    Attributes:
        count: How many.
        lines: The first few, counted from 1: lines of the file, or rows of Parquet files.
        example: The first one as it stands in the source.
    """

    count: int
    lines: list[int]
    example: str


@dataclass
class ImportReport:
    """Filled by `cmdcm.datasets.readers.read` on the way; whole when the last table was taken.

    Every row that is read is exactly one of accepted, rejected and dropped.

    Attributes:
        format: Name of the raw format.
        source: The input.
        timezone: IANA zone in which days are counted and local times were taken.
        resolution: `ms`, `second`, `hour` or `day`; empty until it is known.
        rows_read: Rows of the source; blank lines and the header are none.
        rejected: Malformed rows by reason.
        dropped: Well-formed rows that were left out, by reason.
        notes: What else happened: columns that were left out, assumptions that were made.
    """

    format: str = ""
    source: str = ""
    timezone: str = "UTC"
    resolution: str = ""
    rows_read: int = 0
    rejected: dict[str, Rejected] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _summary: EventSummary = field(default_factory=EventSummary)
    _quarters: set[int] = field(default_factory=set)
    _unit_ms: int = _QUARTER_MS

    @property
    def place(self) -> str:
        """What a place in the source is: a `line` of text, or a `row` of Parquet."""
        return "row" if self.format == "parquet" else "line"

    @property
    def rows_accepted(self) -> int:
        """Events so far."""
        return self._summary.rows

    @property
    def rows_rejected(self) -> int:
        """Malformed rows so far."""
        return sum(rejected.count for rejected in self.rejected.values())

    @property
    def rows_dropped(self) -> int:
        """Well-formed rows that were left out so far."""
        return sum(self.dropped.values())

    @property
    def rows_by_kind(self) -> dict[str, int]:
        """Events of each kind."""
        return dict(self._summary.result()["rows_by_kind"])

    @property
    def users(self) -> int:
        """Distinct users of the events."""
        return int(self._summary.result()["users"])

    @property
    def items(self) -> int:
        """Distinct items of the events."""
        return int(self._summary.result()["items"])

    @property
    def days(self) -> list[str]:
        """The local days that have events, in order (ISO)."""
        days = PromotionCalendar(self.timezone, ()).local_days(self._quarter_starts())
        return [str(day) for day in np.unique(days)]

    def accept(self, table: pa.Table) -> None:
        """Counts a table of events."""
        if not table.num_rows:
            return
        self._summary.add(table, self.source)
        instants = table["timestamp"].cast(pa.int64())
        self._quarters.update(pc.unique(pc.divide(instants, _QUARTER_MS)).to_pylist())
        while not self.resolution and not _multiples(instants, self._unit_ms):
            self._unit_ms = 1000 if self._unit_ms == _QUARTER_MS else 1

    def reject(self, reason: str, count: int, lines: npt.NDArray[np.int64], example: str) -> None:
        """Counts malformed rows; `lines` are those of the first few."""
        known = self.rejected.setdefault(reason, Rejected(0, [], example[:_SHOWN_CHARACTERS]))
        known.count += count
        known.lines += [int(line) for line in lines[: SHOWN_LINES - len(known.lines)]]

    def drop(self, reason: str, count: int) -> None:
        """Counts well-formed rows that are left out."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def finish(self, max_rejected_share: float) -> None:
        """Judges the whole input.

        Raises:
            DataError: More malformed rows than the settings allow, or no event at all.
        """
        if self.rows_rejected > max_rejected_share * self.rows_read:
            raise DataError(
                f"{self.source}: {self.rows_rejected:,} of {self.rows_read:,} rows are malformed, "
                f"more than events.max_rejected_share = {max_rejected_share:g} allows: "
                f"{'; '.join(self._faults())}. Is {self.format!r} its format? Mend the input, or "
                "raise the share to leave such rows out."
            )
        if not self.rows_accepted:
            raise DataError(
                f"{self.source}: no event is left of {self.rows_read:,} rows"
                + "".join(f"; {count:,} {reason}" for reason, count in self.dropped.items())
                + "".join(f"; {fault}" for fault in self._faults())
            )
        if not self.resolution:
            self.resolution = self._observed_resolution()

    def description(self) -> dict[str, Any]:
        """Returns what the log's manifest says about its import."""
        return {
            "format": self.format,
            "source": self.source,
            "timezone": self.timezone,
            "resolution": self.resolution,
            "rows_read": self.rows_read,
            "rejected": {
                reason: {"count": rejected.count, "lines": rejected.lines}
                for reason, rejected in self.rejected.items()
            },
            "dropped": dict(self.dropped),
            "days": len(self.days),
        }

    def text(self) -> str:
        """Returns the report for people, one fact a line."""
        counts = self._summary.result()
        days = self.days
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts["rows_by_kind"].items())
        facts = [
            ("rows read", f"{self.rows_read:,}"),
            ("events", f"{self.rows_accepted:,}"),
            ("by kind", kinds),
            ("users", f"{counts['users']:,}"),
            ("items", f"{counts['items']:,}"),
            ("days", f"{len(days):,}, {days[0]} to {days[-1]} ({self.timezone})" if days else "0"),
            ("resolution", self.resolution),
            ("rejected", f"{self.rows_rejected:,}"),
            *(("", fault) for fault in self._faults()),
            ("dropped", f"{self.rows_dropped:,}"),
            *(("", f"{reason}: {count:,}") for reason, count in self.dropped.items()),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{name:<11} {fact}" for name, fact in facts)

    def _faults(self) -> list[str]:
        faults = []
        by_count = sorted(self.rejected.items(), key=lambda entry: (-entry[1].count, entry[0]))
        for reason, rejected in by_count:
            lines = ", ".join(f"{line:,}" for line in rejected.lines)
            more = ", ..." if rejected.count > len(rejected.lines) else ""
            places = f"{self.place}{'s' if rejected.count > 1 else ''} {lines}{more}"
            faults.append(f"{reason}: {rejected.count:,} ({places}: {rejected.example!r})")
        return faults

    def _quarter_starts(self) -> npt.NDArray[np.int64]:
        return np.array(sorted(self._quarters), np.int64) * _QUARTER_MS

    def _observed_resolution(self) -> str:
        if self._unit_ms < _QUARTER_MS:
            return "second" if self._unit_ms == 1000 else "ms"
        starts = self._quarter_starts()
        midnights = [to_ms(day, self.timezone) for day in self.days]
        if np.isin(starts, midnights).all():
            return "day"
        return "hour" if (starts % HOUR_MS == 0).all() else "second"


def _multiples(instants: pa.ChunkedArray, unit_ms: int) -> bool:
    """Whether all instants are multiples of a unit."""
    whole = pc.multiply(pc.divide(instants, unit_ms), unit_ms)
    return bool(pc.all(pc.equal(whole, instants)).as_py())
