"""Comma-separated raw logs, in blocks of whole lines and a column at a time.

Fields are never quoted in the public logs: a quote is a character as any other. A line with the
wrong number of fields is set aside by the positions of its commas; all other lines become columns
of strings, whose values `Intake` converts and checks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cmdcm.core.config import EventsConfig
from cmdcm.core.errors import DataError
from cmdcm.datasets.readers.intake import Column, Intake
from cmdcm.datasets.readers.lines import BLOCK_BYTES, line_blocks
from cmdcm.datasets.readers.report import ImportReport

_FIELDS = "wrong number of fields"
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class DelimitedFormat:
    """A public log format of comma-separated lines.

    Attributes:
        names: Names of the fields, in the order in which the public files have them.
        has_header: Whether the first line names the fields; then their order is free.
        resolution: How fine its times are: `ms`, `second`, `hour` or `day`.
        columns: Gives the columns of the contract for the log's time zone.
        string_ids: Identifier columns that hold strings.
    """

    names: tuple[str, ...]
    has_header: bool
    resolution: str
    columns: Callable[[str], tuple[Column, ...]]
    string_ids: tuple[str, ...] = ()


def read_delimited(
    format_: DelimitedFormat,
    path: Path,
    config: EventsConfig,
    report: ImportReport,
    *,
    on_bytes: Callable[[int], None] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[pa.Table]:
    """Yields the events of a file, one table a block; see `cmdcm.datasets.readers.read`."""
    report.resolution = format_.resolution
    columns = format_.columns(report.timezone)
    intake = Intake(columns, config, report, format_.string_ids)
    names = format_.names
    line = 1
    for number, block in enumerate(line_blocks(path, block_bytes, on_bytes)):
        if number == 0 and format_.has_header:
            header, _, block = block.partition(b"\n")
            names = _header(header, [column.raw for column in columns], format_.names, path)
            left_out = [name for name in names if name not in format_.names]
            if left_out:
                report.notes.append(f"columns that are left out: {', '.join(left_out)}")
            line += 1
        lines = _Lines(block, line, len(names))
        line += len(lines.ends)
        lines.reject_malformed(report)
        if table := _accept(lines, names, [column.raw for column in columns], intake):
            yield table


def _header(line: bytes, wanted: list[str], public: tuple[str, ...], path: Path) -> tuple[str, ...]:
    names = tuple(name.strip() for name in line.decode("utf-8", "replace").split(","))
    missing = [name for name in wanted if name not in names]
    if missing:
        others = [name for name in names if name not in public]
        instead = f", but has {str(others)[:_SHOWN_CHARACTERS]}" if others else ""
        raise DataError(
            f"{path}: the header lacks {missing}{instead}; expected {','.join(public)}. "
            f"Received: {','.join(names)[:_SHOWN_CHARACTERS]!r}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {twice} more than once")
    return names


class _Lines:
    """The lines of a block, told apart by their number of fields.

    Attributes:
        ends: [lines] position of each line's end.
        usable: [lines] whether a line has the right number of fields; None if all have.
    """

    def __init__(self, block: bytes, first_line: int, fields: int) -> None:
        self.block = block
        self._first_line = first_line
        characters = np.frombuffer(block, np.uint8)
        marks = np.flatnonzero((characters == ord(",")) | (characters == ord("\n")))
        is_end = characters[marks] == ord("\n")
        self.ends = marks[is_end]
        self.usable: npt.NDArray[np.bool_] | None = None
        in_rows = is_end.reshape(-1, fields) if len(is_end) % fields == 0 else None
        if in_rows is None or in_rows[:, :-1].any() or not in_rows[:, -1].all():
            self.usable = np.diff(np.flatnonzero(is_end), prepend=-1) == fields

    def reject_malformed(self, report: ImportReport) -> None:
        """Counts the lines with the wrong number of fields; blank lines are no rows."""
        if self.usable is None:
            return
        lengths = np.diff(self.ends, prepend=-1) - 1
        malformed = np.flatnonzero(~self.usable & (lengths > 0))
        if len(malformed):
            report.rows_read += len(malformed)
            lines = self._first_line + malformed
            report.reject(_FIELDS, len(malformed), lines, self.text(int(malformed[0])))

    def indices(self) -> npt.NDArray[np.int64]:
        """Returns [rows] the indices of the usable lines."""
        if self.usable is None:
            return np.arange(len(self.ends))
        return np.flatnonzero(self.usable)

    def numbers(self) -> npt.NDArray[np.int64]:
        """Returns [rows] where the usable lines stand in the file, from 1."""
        return self._first_line + self.indices()

    def usable_block(self) -> bytes:
        """Returns the usable lines alone."""
        if self.usable is None:
            return self.block
        keep = np.repeat(self.usable, np.diff(self.ends, prepend=-1))
        return np.frombuffer(self.block, np.uint8)[keep].tobytes()

    def text(self, index: int) -> str:
        """Returns one line."""
        start = self.ends[index - 1] + 1 if index else 0
        return self.block[start : self.ends[index]].decode("utf-8", "replace")


def _accept(
    lines: _Lines, names: tuple[str, ...], wanted: list[str], intake: Intake
) -> pa.Table | None:
    block = lines.usable_block()
    if not block:
        return None
    raw = pl.read_csv(
        block,
        has_header=False,
        schema=dict.fromkeys(names, pl.String),
        columns=sorted({names.index(name) for name in wanted}),
        quote_char=None,
        encoding="utf8" if block.isascii() else "utf8-lossy",
    )
    indices = lines.indices()
    table = intake.accept(raw, lines.numbers(), lambda row: lines.text(int(indices[row])))
    return table if table.num_rows else None
