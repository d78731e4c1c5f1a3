"""A calendar of ordinary days: what a model sees that never sees a pre-promotion window.

Between promotions, outside of warm-ups, the days before the as-of instant are cut into stretches
that end in one day which stands for a promotion's. Clicks before it make examples like those of a
window: what is bought at once is `direct`, what is bought on that last day from an open cart is
`delayed`.
"""

from collections.abc import Iterator
from datetime import date, timedelta

from cmdcm.core.errors import DataError
from cmdcm.core.settings.data import CalendarConfig, PromotionConfig
from cmdcm.datasets.calendar import PromotionCalendar

LENGTH = timedelta(10)
"""Of a stretch before its last day, as long as the windows of most promotions."""

DAY, YEAR = timedelta(1), timedelta(365)
MIN_STRETCHES = 3
"""To train, validate and test."""


def ordinary_days(calendar: PromotionCalendar, as_of_ms: int, kind: str) -> CalendarConfig:
    """Returns the stretches of ordinary days in the year before an instant, as a calendar.

    Args:
        calendar: The promotions, whose days from the warm-up on are left out.
        as_of_ms: The instant (UTC ms); every stretch has ended by then.
        kind: Kind of promotion that all stretches get: that of the coming one.

    Raises:
        DataError: There are fewer than three.
    """
    starts = list(_starts(calendar, _day(calendar, as_of_ms)))
    if len(starts) < MIN_STRETCHES:
        raise DataError(
            f"a model of ordinary days needs {MIN_STRETCHES} stretches of {LENGTH.days + 1} days "
            f"without a promotion in the year before; there are {len(starts)}"
        )
    return CalendarConfig(
        timezone=calendar.timezone,
        promotions=tuple(
            PromotionConfig(
                name=f"ordinary-{start}",
                kind=kind,
                warmup_start=start.isoformat(),
                pre_promotion_start=start.isoformat(),
                promotion_start=(start + LENGTH).isoformat(),
                promotion_end=(start + LENGTH + DAY).isoformat(),
            )
            for start in starts
        ),
    )


def _starts(calendar: PromotionCalendar, today: date) -> Iterator[date]:
    seasons = [
        (_day(calendar, p.warmup_start_ms), _day(calendar, p.promotion_end_ms - 1) + DAY)
        for p in calendar.promotions
    ]
    start = today - YEAR
    while (end := start + LENGTH + DAY) <= today:
        met = [last for first, last in seasons if first < end and start < last]
        if not met:
            yield start
        start = max(met, default=end)


def _day(calendar: PromotionCalendar, instant_ms: int) -> date:
    return date.fromisoformat(calendar.local_day(instant_ms))
