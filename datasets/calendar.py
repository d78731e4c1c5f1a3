"""Contract 2, the promotion calendar: every date arithmetic of the project is done here.

A promotion has three adjoining intervals in the calendar's time zone:

    warm-up           [warmup_start,        pre_promotion_start)
    pre-promotion     [pre_promotion_start, promotion_start)       clicks here become examples
    promotion day(s)  [promotion_start,     promotion_end)         purchases here are "delayed"

Instants are UTC milliseconds elsewhere; days are days of the calendar's time zone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from cmdcm.core.config import CalendarConfig
from cmdcm.core.errors import ConfigError

QUARTER_MS = 900_000
HOUR_MS = 4 * QUARTER_MS
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Promotion:
    """One promotion; all instants are UTC milliseconds, ends are exclusive."""

    name: str
    kind: str
    warmup_start_ms: int
    pre_promotion_start_ms: int
    promotion_start_ms: int
    promotion_end_ms: int


@dataclass(frozen=True)
class PromotionCalendar:
    """Promotions in the order of their start, in one named time zone.

    Raises:
        ConfigError: Boundaries of a promotion out of order, two promotions of one name, or
            windows (pre-promotion through promotion day) that overlap.
    """

    timezone: str
    promotions: tuple[Promotion, ...]

    def __post_init__(self) -> None:
        zone(self.timezone)
        if sorted(p.pre_promotion_start_ms for p in self.promotions) != [
            p.pre_promotion_start_ms for p in self.promotions
        ]:
            raise ConfigError("calendar: promotions should be listed in the order of their start")
        names = [p.name for p in self.promotions]
        for name in {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"calendar: promotion {name!r} is listed twice")
        for p in self.promotions:
            bounds = (
                p.warmup_start_ms,
                p.pre_promotion_start_ms,
                p.promotion_start_ms,
                p.promotion_end_ms,
            )
            if not bounds[0] <= bounds[1] < bounds[2] < bounds[3]:
                raise ConfigError(
                    f"calendar: promotion {p.name!r} should have warmup_start <= "
                    "pre_promotion_start < promotion_start < promotion_end"
                )
        for before, after in zip(self.promotions, self.promotions[1:], strict=False):
            if after.pre_promotion_start_ms < before.promotion_end_ms:
                raise ConfigError(
                    f"calendar: {after.name!r} opens its pre-promotion window before "
                    f"{before.name!r} has ended"
                )
            # Examples, splits and metrics go by local days: a day belongs to one window.
            last, first = self.local_days(
                np.array([before.promotion_start_ms - 1, after.pre_promotion_start_ms])
            )
            if last == first:
                raise ConfigError(
                    f"calendar: the pre-promotion windows of {before.name!r} and {after.name!r} "
                    f"share the day {first}"
                )

    def bounds(self) -> npt.NDArray[np.int64]:
        """Returns [promotions, 3]: pre-promotion start, promotion start, promotion end in ms."""
        return np.array(
            [
                (p.pre_promotion_start_ms, p.promotion_start_ms, p.promotion_end_ms)
                for p in self.promotions
            ],
            np.int64,
        ).reshape(-1, 3)

    def get(self, name: str) -> Promotion:
        """Returns the promotion called `name`."""
        for promotion in self.promotions:
            if promotion.name == name:
                return promotion
        known = [p.name for p in self.promotions]
        raise ConfigError(f"unknown promotion {name!r}; the calendar has {known}")

    def local_day(self, instant_ms: int) -> str:
        """Returns the local day (ISO) of an instant in UTC milliseconds.

        Example:
            >>> PromotionCalendar("Asia/Shanghai", ()).local_day(16 * HOUR_MS)
            '1970-01-02'
        """
        return str(self.local_days(np.array([instant_ms]))[0])

    def local_days(self, instants_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
        """Returns the local day (datetime64[D]) of each UTC instant."""
        local = instants_ms + self._offsets(instants_ms)
        return local.astype("datetime64[ms]").astype("datetime64[D]")

    def local_hours(self, instants_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the local hour of the day, 0 to 23, of each UTC instant."""
        return (instants_ms + self._offsets(instants_ms)) // HOUR_MS % 24

    def weekdays(self, instants_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the local day of the week, Monday = 0, of each UTC instant."""
        return ((instants_ms + self._offsets(instants_ms)) // DAY_MS + 3) % 7

    def _offsets(self, instants_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """UTC offset in ms at each instant."""
        instants = np.asarray(instants_ms)
        days, of_day = np.unique(instants // DAY_MS, return_inverse=True)
        before, after = self._offsets_at(days * DAY_MS), self._offsets_at((days + 1) * DAY_MS)
        offsets = before[of_day]
        changed = (before != after)[of_day]
        if changed.any():  # on a quarter of an hour
            quarters, of_quarter = np.unique(instants[changed] // QUARTER_MS, return_inverse=True)
            offsets[changed] = self._offsets_at(quarters * QUARTER_MS)[of_quarter]
        return offsets

    def _offsets_at(self, instants_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        tz, millisecond = zone(self.timezone), timedelta(milliseconds=1)
        return np.array(
            [
                (datetime.fromtimestamp(t // 1000, tz).utcoffset() or timedelta()) // millisecond
                for t in instants_ms.tolist()
            ],
            np.int64,
        )


def zone(name: str) -> ZoneInfo:
    """Returns the time zone called `name` (IANA)."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"unknown time zone {name!r}; use an IANA name, Asia/Shanghai") from error


def to_ms(local: str | date | datetime, timezone: str) -> int:
    """Returns the UTC milliseconds of a local day's first instant or of a local date-time.

    Example:
        >>> to_ms("2017-12-02", "Asia/Shanghai")
        1512144000000
    """
    if isinstance(local, str):
        try:
            local = datetime.fromisoformat(local)
        except ValueError as error:
            raise ConfigError(f"{local!r} is no ISO date or date-time") from error
    if not isinstance(local, datetime):
        local = datetime.combine(local, time())
    if local.tzinfo is None:
        local = local.replace(tzinfo=zone(timezone))
    return round(local.timestamp() * 1000)


def promotion(
    name: str, kind: str, timezone: str, boundaries: tuple[str, str, str, str]
) -> Promotion:
    """Builds a promotion from its four local boundaries (ISO dates or date-times).

    Args:
        name: Unique name, `double11-2025`.
        kind: Kind of promotion, a model input: `double11`, `618`, ...
        timezone: IANA zone of the boundaries.
        boundaries: warmup_start, pre_promotion_start, promotion_start, promotion_end (exclusive).
    """
    return Promotion(name, kind, *(to_ms(boundary, timezone) for boundary in boundaries))


def _day(year: int, month: int, day: int) -> str:
    return date(year, month, day).isoformat()


def _double11(year: int) -> tuple[str, str, str, str]:
    return _day(year, 10, 20), _day(year, 11, 1), _day(year, 11, 11), _day(year, 11, 12)


def _double12(year: int) -> tuple[str, str, str, str]:
    return _day(year, 11, 30), _day(year, 12, 5), _day(year, 12, 12), _day(year, 12, 13)


def _618(year: int) -> tuple[str, str, str, str]:
    return _day(year, 5, 28), _day(year, 6, 8), _day(year, 6, 18), _day(year, 6, 19)


def _black_friday(year: int) -> tuple[str, str, str, str]:
    """The Friday after November's fourth Thursday, through Cyber Monday."""
    first = date(year, 11, 1)
    friday = first + timedelta(days=(3 - first.weekday()) % 7 + 22)
    start = friday - timedelta(days=10)
    warmup = friday - timedelta(days=21)
    end = friday + timedelta(days=4)
    return warmup.isoformat(), start.isoformat(), friday.isoformat(), end.isoformat()


KINDS: dict[str, Callable[[int], tuple[str, str, str, str]]] = {
    "618": _618,
    "black_friday": _black_friday,
    "double11": _double11,
    "double12": _double12,
}
"""The yearly promotions with built-in dates: kind -> boundaries of a year."""


def yearly(kinds: Iterable[str], years: Iterable[int], timezone: str) -> PromotionCalendar:
    """Builds the calendar of `kinds` (keys of `KINDS`) over `years`.

    Example:
        >>> [p.name for p in yearly(["618", "double11"], [2024], "Asia/Shanghai").promotions]
        ['618-2024', 'double11-2024']
    """
    kinds = list(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of promotion {kind!r}; built in are {sorted(KINDS)}")
    promotions = [
        promotion(f"{kind}-{year}", kind, timezone, KINDS[kind](year))
        for year in years
        for kind in kinds
    ]
    promotions.sort(key=lambda p: p.pre_promotion_start_ms)
    return PromotionCalendar(timezone, tuple(promotions))


def _single(
    name: str, kind: str, timezone: str, boundaries: tuple[str, str, str, str]
) -> PromotionCalendar:
    return PromotionCalendar(timezone, (promotion(name, kind, timezone, boundaries),))


BUILT_IN: dict[str, Callable[[], PromotionCalendar]] = {
    # The Double 12 warm-up weekend at the end of the log stands for its promotion days.
    "taobao": lambda: _single(
        "double12-warmup-2017",
        "double12",
        "Asia/Shanghai",
        ("2017-11-25", "2017-11-25", "2017-12-02", "2017-12-04"),
    ),
    "tianchi": lambda: _single(
        "double12-2014",
        "double12",
        "Asia/Shanghai",
        ("2014-11-18", "2014-12-02", "2014-12-12", "2014-12-13"),
    ),
    "tmall": lambda: _single(
        "double11-2014",
        "double11",
        "Asia/Shanghai",
        ("2014-10-15", "2014-11-01", "2014-11-11", "2014-11-12"),
    ),
    "rees46": lambda: yearly(["black_friday"], [2019], "UTC"),
    # No promotion of this shop is publicly known: a calendar of one's own is needed.
    "retailrocket": lambda: PromotionCalendar("UTC", ()),
    "china": lambda: yearly(["618", "double11", "double12"], range(2014, 2031), "Asia/Shanghai"),
    "black_friday": lambda: yearly(["black_friday"], range(2014, 2031), "America/New_York"),
}
"""Named calendars: one for each public data set, and the yearly promotions of a market."""


def built_in(name: str) -> PromotionCalendar:
    """Returns the built-in calendar called `name`, a key of `BUILT_IN`."""
    if name not in BUILT_IN:
        raise ConfigError(f"unknown calendar {name!r}; built in are {sorted(BUILT_IN)}")
    return BUILT_IN[name]()


def calendar_of(config: CalendarConfig) -> PromotionCalendar:
    """Returns the calendar that the configuration names or lists."""
    if not config.promotions:
        return built_in(config.built_in)
    promotions = [
        promotion(
            p.name,
            p.kind,
            config.timezone,
            (p.warmup_start, p.pre_promotion_start, p.promotion_start, p.promotion_end),
        )
        for p in config.promotions
    ]
    return PromotionCalendar(config.timezone, tuple(promotions))
