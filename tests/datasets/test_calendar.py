"""The promotion calendar: instants, local days and the built-in promotions."""

import calendar as months
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import (
    BUILT_IN,
    DAY_MS,
    HOUR_MS,
    KINDS,
    Promotion,
    PromotionCalendar,
    built_in,
    promotion,
    to_ms,
    yearly,
    zone,
)

# Whole, half and quarter hours off UTC; summer time by an hour and (Lord Howe) by half an hour.
ZONES = [
    "UTC",
    "Asia/Shanghai",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/St_Johns",
]


def utc(text: str) -> int:
    """UTC milliseconds of a UTC date-time, by the standard library alone."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def one(*boundaries: int, name: str = "p") -> Promotion:
    """A promotion whose boundaries are given in days of UTC since 1970."""
    return Promotion(name, "kind", *(day * DAY_MS for day in boundaries))


class TestToMs:
    @pytest.mark.parametrize(
        ("local", "timezone_", "expected"),
        [
            ("2017-12-02", "Asia/Shanghai", "2017-12-01T16:00"),
            ("2017-12-02T08:30", "Asia/Shanghai", "2017-12-02T00:30"),
            ("2017-12-02T08:30:00.250", "UTC", "2017-12-02T08:30:00.250"),
            ("2017-12-02T00:00+00:00", "Asia/Shanghai", "2017-12-02T00:00"),
            (date(2024, 7, 1), "America/New_York", "2024-07-01T04:00"),
            (date(2024, 12, 1), "America/New_York", "2024-12-01T05:00"),
            (datetime(2024, 12, 1, 12), "Asia/Kathmandu", "2024-12-01T06:15"),
        ],
    )
    def test_local_instants(self, local, timezone_, expected):
        assert to_ms(local, timezone_) == utc(expected)

    def test_the_day_on_which_summer_time_ends_has_25_hours(self):
        start = to_ms("2024-11-03", "America/New_York")
        assert to_ms("2024-11-04", "America/New_York") - start == 25 * HOUR_MS

    @pytest.mark.parametrize("text", ["", "2017-13-01", "yesterday", "02.12.2017"])
    def test_what_is_no_date_is_named(self, text):
        with pytest.raises(ConfigError, match=f"'{text}' is no ISO date"):
            to_ms(text, "UTC")

    @pytest.mark.parametrize("name", ["", "Asia", "Mars/Base", "../etc/passwd", "/etc/passwd"])
    def test_an_unknown_zone_is_named(self, name):
        with pytest.raises(ConfigError, match=f"unknown time zone '{name}'"):
            to_ms("2017-12-02", name)


class TestLocalTime:
    @given(
        st.sampled_from(ZONES),
        st.lists(st.integers(utc("1971-01-01"), utc("2037-12-31")), max_size=20),
    )
    # The half hour in which Lord Howe's clocks went forward, 2024-10-06 02:00 -> 02:30.
    @example("Australia/Lord_Howe", [utc("2024-10-05T15:29:59"), utc("2024-10-05T15:30")])
    def test_agrees_with_the_standard_library(self, name, instants):
        calendar = PromotionCalendar(name, ())
        array = np.array(instants, np.int64)
        local = [
            (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=t)).astimezone(zone(name))
            for t in instants
        ]
        assert calendar.local_days(array).tolist() == [t.date() for t in local]
        assert calendar.local_hours(array).tolist() == [t.hour for t in local]
        assert calendar.weekdays(array).tolist() == [t.weekday() for t in local]

    def test_order_and_repetition_are_kept(self):
        calendar = PromotionCalendar("Asia/Shanghai", ())
        instants = np.array([5, 0, 5, 17]) * HOUR_MS
        assert calendar.local_hours(instants).tolist() == [13, 8, 13, 1]
        assert calendar.local_days(np.array([15 * HOUR_MS, 16 * HOUR_MS])).tolist() == [
            date(1970, 1, 1),
            date(1970, 1, 2),
        ]


class TestPromotionCalendar:
    def test_bounds(self):
        calendar = PromotionCalendar("UTC", (one(0, 1, 5, 6), one(3, 6, 8, 9, name="q")))
        assert (calendar.bounds() // DAY_MS).tolist() == [[1, 5, 6], [6, 8, 9]]
        empty = PromotionCalendar("UTC", ()).bounds()
        assert empty.shape == (0, 3)
        assert empty.dtype == np.int64

    def test_get(self):
        calendar = PromotionCalendar("UTC", (one(0, 1, 5, 6), one(3, 6, 8, 9, name="q")))
        assert calendar.get("q").promotion_start_ms == 8 * DAY_MS
        with pytest.raises(ConfigError, match=r"unknown promotion 'r'; .* \['p', 'q'\]"):
            calendar.get("r")

    def test_no_warm_up_is_allowed(self):
        assert PromotionCalendar("UTC", (one(1, 1, 5, 6),)).get("p").warmup_start_ms == DAY_MS

    @pytest.mark.parametrize("boundaries", [(2, 1, 5, 6), (0, 5, 5, 6), (0, 1, 6, 6), (0, 1, 6, 5)])
    def test_boundaries_out_of_order(self, boundaries):
        with pytest.raises(ConfigError, match="promotion 'p' should have warmup_start <= "):
            PromotionCalendar("UTC", (one(*boundaries),))

    def test_overlapping_windows(self):
        with pytest.raises(ConfigError, match=r"'q' opens .* before 'p' has ended"):
            PromotionCalendar("UTC", (one(0, 1, 5, 6), one(3, 5, 8, 9, name="q")))

    def test_two_windows_on_one_local_day(self):
        first = Promotion("p", "kind", 0, 0, DAY_MS, DAY_MS + HOUR_MS)
        second = Promotion("q", "kind", *(DAY_MS + hour * HOUR_MS for hour in (2, 2, 30, 40)))
        # The day in Shanghai begins at 16:00 UTC: there, both windows lie in it.
        with pytest.raises(ConfigError, match="'p' and 'q' share the day 1970-01-02"):
            PromotionCalendar("Asia/Shanghai", (first, second))
        assert len(PromotionCalendar("UTC", (first, second)).promotions) == 2

    def test_promotions_out_of_order(self):
        with pytest.raises(ConfigError, match="in the order of their start"):
            PromotionCalendar("UTC", (one(3, 6, 8, 9), one(0, 1, 5, 6, name="q")))

    def test_one_name_twice(self):
        with pytest.raises(ConfigError, match="'p' is listed twice"):
            PromotionCalendar("UTC", (one(0, 1, 5, 6), one(3, 6, 8, 9)))

    def test_unknown_zone(self):
        with pytest.raises(ConfigError, match="unknown time zone 'Asia/Shangai'"):
            PromotionCalendar("Asia/Shangai", ())


def test_promotion_from_local_boundaries():
    boundaries = ("2024-10-20", "2024-11-01", "2024-11-10T20:00", "2024-11-12")
    assert promotion("d", "double11", "Asia/Shanghai", boundaries) == Promotion(
        "d",
        "double11",
        utc("2024-10-19T16:00"),
        utc("2024-10-31T16:00"),
        utc("2024-11-10T12:00"),
        utc("2024-11-11T16:00"),
    )


class TestYearly:
    @pytest.mark.parametrize(
        ("kind", "first", "last"),
        [
            ("618", "2024-06-18", "2024-06-18"),
            ("double11", "2024-11-11", "2024-11-11"),
            ("double12", "2024-12-12", "2024-12-12"),
            ("black_friday", "2024-11-29", "2024-12-02"),
        ],
    )
    def test_days_of_2024(self, kind, first, last):
        (p,) = yearly([kind], [2024], "UTC").promotions
        assert p.name == f"{kind}-2024"
        assert p.promotion_start_ms == utc(first)
        assert p.promotion_end_ms - DAY_MS == utc(last)

    @pytest.mark.parametrize("year", range(2000, 2051))
    def test_black_friday_follows_the_fourth_thursday_of_november(self, year):
        weeks = months.monthcalendar(year, 11)
        fourth = [week[months.THURSDAY] for week in weeks if week[months.THURSDAY]][3]
        start = KINDS["black_friday"](year)[2]
        assert date.fromisoformat(start) == date(year, 11, fourth) + timedelta(days=1)

    def test_is_in_the_order_of_time(self):
        calendar = yearly(["double12", "618"], [2024, 2023], "Asia/Shanghai")
        names = [p.name for p in calendar.promotions]
        assert names == ["618-2023", "double12-2023", "618-2024", "double12-2024"]

    def test_unknown_kind(self):
        with pytest.raises(ConfigError, match=r"unknown kind of promotion '11\.11'; .*'double11'"):
            yearly(["11.11"], [2024], "UTC")


class TestBuiltIn:
    @pytest.mark.parametrize("name", sorted(BUILT_IN))
    def test_is_valid(self, name):
        calendar = built_in(name)
        assert bool(calendar.promotions) == (name != "retailrocket")

    @pytest.mark.parametrize(
        ("name", "zone_", "pre_promotion", "first", "end"),
        [
            ("taobao", "Asia/Shanghai", "2017-11-25", "2017-12-02", "2017-12-04"),
            ("tianchi", "Asia/Shanghai", "2014-12-02", "2014-12-12", "2014-12-13"),
            ("tmall", "Asia/Shanghai", "2014-11-01", "2014-11-11", "2014-11-12"),
            ("rees46", "UTC", "2019-11-19", "2019-11-29", "2019-12-03"),
        ],
    )
    def test_windows_of_the_public_logs(self, name, zone_, pre_promotion, first, end):
        calendar = built_in(name)
        assert calendar.timezone == zone_
        expected = [[to_ms(day, zone_) for day in (pre_promotion, first, end)]]
        assert calendar.bounds().tolist() == expected

    def test_a_market_has_each_promotion_each_year(self):
        names = {p.name for p in built_in("china").promotions}
        assert {"618-2014", "double11-2024", "double12-2030"} <= names
        assert len(names) == 3 * 17

    def test_unknown_name(self):
        with pytest.raises(ConfigError, match=r"unknown calendar 'taobo'; .*'taobao'"):
            built_in("taobo")
