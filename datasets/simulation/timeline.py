"""When things happen: traffic by hour, the seasons around promotions, and their deadlines.

A promotion's season is [max(warmup_start, end of the promotion before), promotion_end): a warm-up,
a pre-promotion window and the promotion days. Traffic rises over the first two and peaks on the
last.
"""

from dataclasses import dataclass

import numpy as np

from cmdcm.core.config import SimulateConfig
from cmdcm.datasets.calendar import DAY_MS, HOUR_MS, PromotionCalendar, to_ms, yearly
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


@dataclass(frozen=True)
class Timeline:
    """The simulated period; all instants are UTC milliseconds.

    Attributes:
        calendar: The promotions in the period.
        start_ms: First instant of the period.
        end_ms: First instant after it.
        seasons: [promotions, 3]: season start, promotion start, promotion end.
        hours: [hours + 1], edges of the period's hours.
        mass: [hours + 1], traffic from the period's start up to each edge, in ordinary days.
    """

    calendar: PromotionCalendar
    start_ms: int
    end_ms: int
    seasons: Ints
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


def build_timeline(config: SimulateConfig, timezone: str) -> Timeline:
    """Builds the period of `config.years` whole local years.

    Raises:
        ConfigError: An unknown or repeated kind of promotion, or overlapping windows.

    Example:
        >>> timeline = build_timeline(SimulateConfig(years=1), "Asia/Shanghai")
        >>> [promotion.name for promotion in timeline.calendar.promotions]
        ['618-2023', 'double11-2023', 'double12-2023']
    """
    years = range(config.first_year, config.first_year + config.years)
    calendar = yearly(config.promotions, years, timezone)
    start_ms = to_ms(f"{years.start}-01-01", timezone)
    end_ms = to_ms(f"{years.stop}-01-01", timezone)
    previous_end = start_ms
    seasons = []
    for promotion in calendar.promotions:
        season_start = max(promotion.warmup_start_ms, previous_end)
        seasons.append((season_start, promotion.promotion_start_ms, promotion.promotion_end_ms))
        previous_end = promotion.promotion_end_ms
    hours = np.arange(start_ms, end_ms + 1, HOUR_MS, dtype=np.int64)
    traffic = _traffic(calendar, hours[:-1])
    mass = np.concatenate([[0.0], np.cumsum(traffic)])
    return Timeline(
        calendar, start_ms, end_ms, np.array(seasons, np.int64), hours.astype(np.float64), mass
    )


def _traffic(calendar: PromotionCalendar, hours: Ints) -> Floats:
    """Traffic of each hour; an ordinary working day sums to 1."""
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
    daily = WEEKLY[calendar.weekdays(hours)]
    return level * daily * HOURLY[calendar.local_hours(hours)] / HOURLY.sum()
