"""Logs that arrive day by day: the directories behind a path with `{YYYY-MM-DD}` in it."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

from cmdcm.core.errors import DataError
from cmdcm.core.locations import Location

DAY = "{YYYY-MM-DD}"
"""Stands in a path for the day of a span."""


def day_directories(
    path: Location, first_day: str, last_day: str, allow_missing_days: bool
) -> tuple[Location, list[Location]]:
    """Finds the days of a `{YYYY-MM-DD}` path, such as `events/date={YYYY-MM-DD}/hourly`.

    Args:
        path: The path; the day stands once, in the name of one directory.
        first_day: First day to take (ISO); empty for the first there is.
        last_day: Last day to take; empty for the last there is.
        allow_missing_days: Whether days between them may be missing.

    Returns:
        The directory above the days, and the days' directories in order.

    Raises:
        DataError: There are no such days, or some are missing.
    """
    parts = path.parts
    place = next((n for n, part in enumerate(parts) if DAY in part), -1)
    if place < 0 or str(path).count(DAY) > 1:
        raise DataError(f"{path}: {DAY} should stand once, in the name of a directory")
    base = [path, *path.parents][len(parts) - place]
    rest = parts[place + 1 :]
    if not base.is_dir():
        raise DataError(f"no directory {base}, which should hold the days of {path}")
    before, after = map(re.escape, parts[place].split(DAY))
    pattern = re.compile(f"{before}(\\d{{4}}-\\d{{2}}-\\d{{2}}){after}")
    found = {m[1]: d for d in base.iterdir() if (m := pattern.fullmatch(d.name))}
    days = sorted(d for d in found if (first_day or d) <= d <= (last_day or d))
    if not days:
        there = f"{min(found)}..{max(found)}" if found else "none"
        wanted = f"{first_day or 'the first'}..{last_day or 'the last'}"
        raise DataError(f"no directory of {path} for the days {wanted}; there are {there}")
    missing = _missing(first_day or days[0], last_day or days[-1], days)
    if missing and not allow_missing_days:
        raise DataError(
            f"{path}: {len(missing)} days are missing, {', '.join(missing[:5])}: labels and "
            "counters would be wrong. Deliver them, or pass --allow-missing-days."
        )
    return base, [found[day].joinpath(*rest) for day in days]


def _missing(first: str, last: str, days: Sequence[str]) -> list[str]:
    start, present = date.fromisoformat(first), set(days)
    span = (date.fromisoformat(last) - start).days + 1
    every = [(start + timedelta(days=n)).isoformat() for n in range(span)]
    return [day for day in every if day not in present]
