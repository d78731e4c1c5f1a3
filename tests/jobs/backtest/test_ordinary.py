"""Ordinary days are those of no promotion's season, before the as-of instant."""

import pytest

from cmdcm.core.config import CalendarConfig, PromotionConfig
from cmdcm.core.errors import DataError
from cmdcm.datasets.calendar import DAY_MS, calendar_of, to_ms, yearly
from cmdcm.jobs.backtest.ordinary import ordinary_days

KINDS = ["618", "double11", "double12"]


@pytest.mark.parametrize("timezone", ["Asia/Shanghai", "America/New_York"])
def test_stretches_lie_between_seasons_before_the_instant(timezone):
    promotions = yearly(KINDS, [2022, 2023, 2024], timezone)
    as_of = to_ms("2024-10-25", timezone)
    ordinary = calendar_of(ordinary_days(promotions, as_of, "double11"))
    assert ordinary.timezone == timezone and {p.kind for p in ordinary.promotions} == {"double11"}
    # Some 60 of 365 days belong to a season; what is left is cut into stretches of 11.
    assert 20 <= len(ordinary.promotions) <= (365 - 60) / 11
    for stretch in ordinary.promotions:
        assert as_of - 366 * DAY_MS <= stretch.warmup_start_ms
        assert stretch.promotion_end_ms <= as_of
        assert not any(
            p.warmup_start_ms < stretch.promotion_end_ms
            and stretch.warmup_start_ms < p.promotion_end_ms
            for p in promotions.promotions
        )


def test_too_few_ordinary_days_are_told():
    season = PromotionConfig(
        name="sale-2024",
        kind="sale",
        warmup_start="2023-01-01",
        pre_promotion_start="2023-01-01",
        promotion_start="2023-11-30",
        promotion_end="2023-12-01",
    )
    busy = calendar_of(CalendarConfig(timezone="UTC", promotions=(season,)))
    with pytest.raises(DataError, match="there are 2"):
        ordinary_days(busy, to_ms("2023-12-24", "UTC"), "sale")
    assert len(ordinary_days(busy, to_ms("2024-01-03", "UTC"), "sale").promotions) == 3
