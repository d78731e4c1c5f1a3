"""When things happen: traffic by hour, the seasons around promotions, and their deadlines.

A promotion's season is [max(warmup_start, end of the promotion before), promotion_end): a warm-up,
a pre-promotion window and the promotion days. Traffic rises over the first two and peaks on the
last.
"""

from dataclasses import dataclass

import numpy as np

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import (
    DAY_MS,
    HOUR_MS,
    PromotionCalendar,
    calendar_of,
    to_ms,
    yearly,
)
from cmdcm.datasets.simulation import Bools, Floats, Ints

OUTSIDE, BEFORE, DURING = 0, 1, 2
"""Phases: outside of any season; warm-up and pre-promotion window; promotion days."""

HOURLY = np.array([
    4, 2, 1.2, 0.8, 0.6, 0.6, 1, 2, 3.2, 4.4, 5.2, 5.2,
    5, 5.2, 5.2, 5, 5, 4.8, 5, 6, 7.4, 8, 7.6, 5.8,
])  # fmt: skip
"""Relative traffic of the local hours of a day."""

WEEKLY = np.array([1, 1, 1, 1, 1, 1.15, 1.2])
"""Relative traffic of the days of a week, Monday first."""

WARMUP_TRAFFIC = (1.2, 2.5)
"""Traffic at the warm-up's start and end, ordinary days being 1; in between it is linear."""

WINDOW_TRAFFIC = (3.5, 8.0)
"""The same for the pre-promotion window: its start, and the eve of the promotion."""

PROMOTION_TRAFFIC = 13.0
"""Traffic on the first promotion day; each further one has 0.7 times that of the day before."""

MIDNIGHT_RUSH = (4.0, 2.0)
"""Extra factors of a promotion's first hours: people wait for the prices to fall."""

KIND_PULL = {"double11": 0.3, "618": 0.0, "double12": -0.3, "black_friday": 0.2}
"""How much better than others a kind of promotion is, in log-odds of the purchases on its days."""


@dataclass(frozen=True)
class Timeline:
    """The simulated period; all instants are UTC milliseconds.

    Attributes:
        calendar: The promotions in the period.
        start_ms: First instant of the period.
        end_ms: First instant after it.
        log_start_ms: First instant that the log shows.
        seasons: [promotions, 3]: season start, promotion start, promotion end.
        pulls: [promotions + 1], `KIND_PULL` of each promotion; the last one is outside of seasons.
        hours: [hours + 1], edges of the period's hours.
        mass: [hours + 1], traffic from the period's start up to each edge, in ordinary days.
    """

    calendar: PromotionCalendar
    start_ms: int
    end_ms: int
    log_start_ms: int
    seasons: Ints
    pulls: Floats
    hours: Floats
    mass: Floats

    def locate(self, instants: Ints) -> tuple[Ints, Ints, Ints]:
        """Returns each instant's season (-1 outside of any), phase and deadline.

        The deadline is the end of the phase: whatever a visit leads to at once happens before it,
        so that no visit outside a season reaches into it.
        """
        position = np.searchsorted(self.seasons.ravel(), instants, side="right")
        phase = position % 3
        season = np.where(phase == OUTSIDE, -1, position // 3)
        return season, phase, np.append(self.seasons.ravel(), self.end_ms)[position]

    def in_window(self, instants: Ints, season: Ints) -> Bools:
        """Returns which instants are in the pre-promotion window of their `season`, -1 for none."""
        opens, closes = self.calendar.bounds()[season, :2].T
        return (season >= 0) & (instants >= opens) & (instants < closes)

    def ramp(self, instants: Ints, season: Ints, phase: Ints) -> Floats:
        """Returns how near the promotion is: 0 up to its season's start, 1 at its own start."""
        start, promotion = self.seasons[season, 0], self.seasons[season, 1]
        return np.where(phase == BEFORE, (instants - start) / (promotion - start), 0.0)

    def traffic_between(self, first: Floats | Ints, last: Floats | Ints, uniform: Floats) -> Ints:
        """Returns instants in [first, last), as dense as the traffic, in whole seconds.

        Args:
            first: [n].
            last: [n].
            uniform: [n] in [0, 1), the quantiles of the instants.
        """
        low, high = np.interp(first, self.hours, self.mass), np.interp(last, self.hours, self.mass)
        instants = np.interp(low + uniform * (high - low), self.mass, self.hours)
        return np.asarray(np.minimum(instants, last - 1) // 1000 * 1000, np.int64)


def build_timeline(config: Config) -> Timeline:
    """Builds the period and its promotions.

    Raises:
        ConfigError: An unknown or repeated kind of promotion, overlapping windows, a period without
            a promotion, or a traffic of other days than the period's.

    Example:
        >>> from cmdcm.core.config import SimulateConfig
        >>> timeline = build_timeline(Config(simulate=SimulateConfig(years=1)))
        >>> [promotion.name for promotion in timeline.calendar.promotions]
        ['618-2023', 'double11-2023', 'double12-2023']
    """
    settings = config.simulate
    first = settings.start or f"{settings.first_year}-01-01"
    last = settings.end or f"{settings.first_year + settings.years}-01-01"
    if settings.promotions:
        years = range(int(first[:4]), int(last[:4]) + 1)
        everything = yearly(settings.promotions, years, config.calendar.timezone)
    else:
        everything = calendar_of(config.calendar)
    start_ms, log_start_ms, end_ms = (
        to_ms(instant, everything.timezone)
        for instant in (first, settings.log_start or first, last)
    )
    calendar = PromotionCalendar(
        everything.timezone,
        tuple(
            p
            for p in everything.promotions
            if log_start_ms <= p.pre_promotion_start_ms and p.promotion_end_ms <= end_ms
        ),
    )
    if not calendar.promotions:
        raise ConfigError(
            f"simulate: no promotion lies in the period from {first} to {last}; see "
            "simulate.promotions, and the section calendar"
        )
    previous_end = start_ms
    seasons = []
    for promotion in calendar.promotions:
        season_start = max(promotion.warmup_start_ms, previous_end)
        seasons.append((season_start, promotion.promotion_start_ms, promotion.promotion_end_ms))
        previous_end = promotion.promotion_end_ms
    hours = np.arange(start_ms, end_ms + 1, HOUR_MS, dtype=np.int64)
    if settings.daily_traffic:
        level = _daily(calendar, hours[:-1], settings.daily_traffic)
    else:
        level = _level(calendar, hours[:-1]) ** settings.promotion_effect
        level *= WEEKLY[calendar.weekdays(hours[:-1])]
    traffic = level * HOURLY[calendar.local_hours(hours[:-1])] / HOURLY.sum()
    pulls = [KIND_PULL.get(promotion.kind, 0.0) for promotion in calendar.promotions]
    return Timeline(
        calendar=calendar,
        start_ms=start_ms,
        end_ms=end_ms,
        log_start_ms=log_start_ms,
        seasons=np.array(seasons, np.int64),
        pulls=np.array([*pulls, 0.0]),
        hours=hours.astype(np.float64),
        mass=np.concatenate([[0.0], np.cumsum(traffic)]),
    )


def _daily(calendar: PromotionCalendar, hours: Ints, traffic: tuple[float, ...]) -> Floats:
    """Each hour's level where every day has its own."""
    _, day = np.unique(calendar.local_days(hours), return_inverse=True)
    days = int(day[-1]) + 1
    if len(traffic) != days:
        raise ConfigError(
            f"simulate.daily_traffic should have {days} values, one for each day of the period. "
            f"Received: {len(traffic)}"
        )
    return np.array(traffic)[day]


def _level(calendar: PromotionCalendar, hours: Ints) -> Floats:
    """Each hour's level, ordinary days being 1: ramps to promotions, and spikes on their days."""
    level = np.ones(len(hours))
    for p in calendar.promotions:
        window, start, end = p.pre_promotion_start_ms, p.promotion_start_ms, p.promotion_end_ms
        for first, last, heights in (
            (p.warmup_start_ms, window, WARMUP_TRAFFIC),
            (window, start, WINDOW_TRAFFIC),
        ):
            inside = (hours >= first) & (hours < last)
            level[inside] = np.interp(hours[inside], (first, last), heights)
        inside = (hours >= start) & (hours < end)
        level[inside] = PROMOTION_TRAFFIC * 0.7 ** ((hours[inside] - start) // DAY_MS)
        first_hour = int(np.searchsorted(hours, start))
        level[first_hour : first_hour + len(MIDNIGHT_RUSH)] *= MIDNIGHT_RUSH
    return level
