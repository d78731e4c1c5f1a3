"""Numbers and nested summaries as the report shows them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DIGITS = {
    "auc": 4,
    "pr_auc": 4,
    "gauc": 4,
    "log_loss": 5,
    "normalised_entropy": 4,
    "pcoc": 3,
    "ece": 5,
}
"""Decimals of each metric."""

LISTED = 12
_HIDDEN = ("files",)  # checksums: for programs, in the manifest


@dataclass(frozen=True)
class Table:
    """A table of text: caption, column headers, rows; the first cell of a row is its header."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None, digits: int, *, signed: bool = False) -> str:
    """Formats a number to `digits` decimals; a missing one is a dash.

    Example:
        >>> number(-0.00123, 4, signed=True), number(None, 4)
        ('-0.0012', '–')
    """
    if value is None:
        return "–"
    value = round(value, digits) + 0.0  # no negative zero
    return f"{value:{'+' if signed else ''}.{digits}f}"


def p_value(value: float | None) -> str:
    """Formats a p-value to three decimals; a missing one is a dash.

    Example:
        >>> p_value(0.0312), p_value(1e-5), p_value(None)
        ('0.031', '< 0.001', '–')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value, 3)


def bounds(interval: Mapping[str, Any], digits: int, *, signed: bool = False) -> str:
    """Formats an interval's bounds; the empty string when it has none.

    Example:
        >>> bounds({"estimate": 0.5, "lower": 0.4, "upper": 0.61}, 2)
        '0.40 to 0.61'
    """
    if interval["lower"] is None or interval["upper"] is None:
        return ""
    lower, upper = (number(interval[b], digits, signed=signed) for b in ("lower", "upper"))
    return f"{lower} to {upper}"


def tables(value: Mapping[str, Any], caption: str) -> list[Table]:
    """Turns a nested summary, such as a manifest, into tables.

    Scalars and lists make a table of two columns; a mapping of mappings makes one with a row for
    each and the union of their keys as columns; anything deeper gets tables of its own.

    Example:
        >>> tables({"rows": 1200, "days": {"11-01": {"rows": 1200}}}, "examples")[1].rows
        (('11-01', '1200'),)
    """
    scalars = tuple(
        (name, text(entry))
        for name, entry in value.items()
        if not isinstance(entry, Mapping) and name not in _HIDDEN
    )
    result = [Table(caption, ("name", "value"), scalars)] if scalars else []
    for name, entry in value.items():
        if not isinstance(entry, Mapping) or not entry or name in _HIDDEN:
            continue
        heading = f"{caption}: {name}"
        if all(_flat(row) for row in entry.values()):
            columns = tuple(dict.fromkeys(key for row in entry.values() for key in row))
            rows = tuple(
                (str(key), *(text(row.get(column)) for column in columns))
                for key, row in entry.items()
            )
            result.append(Table(heading, (name, *columns), rows))
        else:
            result += tables(entry, heading)
    return result


def text(value: Any) -> str:
    """Formats a scalar or a list for a table's cell; years and ports keep their four digits.

    Example:
        >>> text(1234567), text(2025), text(0.12345678), text([1, 2]), text(None)
        ('1,234,567', '2025', '0.123457', '1, 2', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "–"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(text(entry) for entry in value[:LISTED])
        return f"{shown}, ... ({len(value)} in all)" if len(value) > LISTED else shown
    return str(value)


def _flat(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(isinstance(v, Mapping) for v in value.values())
