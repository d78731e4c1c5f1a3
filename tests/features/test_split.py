"""Splits: whole days, in the order of time, and clear refusals."""

import pytest

from cmdcm.core.config import SplitConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.split import split_days


def manifest(**days_of: list[str]) -> dict:
    return {
        "days": {d: {"promotion": p, "rows": 1} for p, days in days_of.items() for d in days},
        "promotions": {p: {"first_day": days[0]} for p, days in days_of.items()},
    }


THREE = manifest(b=["2024-11-01", "2024-11-02"], a=["2024-06-01"], c=["2024-12-05", "2024-12-06"])
ONE = manifest(a=[f"2024-11-{day:02}" for day in range(1, 11)])


def test_three_promotions_are_split_by_promotion_in_the_order_of_time():
    split = split_days(THREE, SplitConfig())
    assert split.by == "promotion"
    assert split.train == ("2024-06-01",)
    assert split.validation == ("2024-11-01", "2024-11-02")
    assert split.test == ("2024-12-05", "2024-12-06")
    assert split.note == ""


def test_one_promotion_is_split_by_days_and_says_that_it_is_optimistic():
    split = split_days(ONE, SplitConfig(validation_share=0.2, test_share=0.3))
    assert split.by == "time"
    assert (len(split.train), len(split.validation), len(split.test)) == (5, 2, 3)
    assert split.train[-1] < split.validation[0] < split.validation[-1] < split.test[0]
    assert "optimistic" in split.note


def test_by_time_trains_on_earlier_promotions_too():
    split = split_days(
        THREE | {"days": THREE["days"] | {"2024-12-07": {"promotion": "c", "rows": 1}}},
        SplitConfig(by="time"),
    )
    assert split.train == ("2024-06-01", "2024-11-01", "2024-11-02", "2024-12-05")
    assert (split.validation, split.test) == (("2024-12-06",), ("2024-12-07",))


def test_named_promotions_are_taken():
    four = manifest(a=["2023-06-01"], b=["2023-11-01"], c=["2024-06-01"], d=["2024-11-01"])
    split = split_days(four, SplitConfig(by="promotion", test=("c",), validation=("b",)))
    # What comes after the test promotion trains nothing.
    assert (split.train, split.validation, split.test) == (
        ("2023-06-01",),
        ("2023-11-01",),
        ("2024-06-01",),
    )


@pytest.mark.parametrize(("windows", "first"), [(0, 0), (1, 2), (2, 1), (9, 0)])
def test_windows_are_the_last_promotions_before_validation(windows, first):
    days = [f"2024-{month:02}-01" for month in range(1, 6)]
    five = manifest(**{f"p{n}": [day] for n, day in enumerate(days)})
    split = split_days(five, SplitConfig(windows=windows))
    assert (split.train, split.validation, split.test) == (
        tuple(days[first:3]),
        (days[3],),
        (days[4],),
    )


def test_windows_of_a_split_by_time_are_refused():
    with pytest.raises(ConfigError, match=r"split\.windows = 2 needs a split by promotion"):
        split_days(ONE, SplitConfig(windows=2))


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (SplitConfig(test=("x",)), ConfigError, r"\['x'\].*\['a', 'b', 'c'\]"),
        (SplitConfig(test=("b",), validation=("c",)), DataError, "in this order"),
        (SplitConfig(test=("a",)), DataError, "in this order"),
    ],
)
def test_an_impossible_split_by_promotion_is_refused(config, error, words):
    with pytest.raises(error, match=words):
        split_days(THREE, config.model_copy(update={"by": "promotion"}))


def test_too_few_days_are_refused():
    with pytest.raises(DataError, match="at least 3 days"):
        split_days(manifest(a=["2024-11-01", "2024-11-02"]), SplitConfig())
