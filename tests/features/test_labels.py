"""Labels of single clicks, worked out by hand from the definitions.

The window is [0, 100), the promotion's days are [100, 120); the click is at 10 unless said.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import LabelsConfig
from cmdcm.datasets.calendar import PromotionCalendar, promotion, to_ms
from cmdcm.features.labels import PairEvents, Periods, label
from cmdcm.features.windows import NEVER, group_starts
from cmdcm.tests.features.logs import Log, event

OPENS, STARTS, ENDS = 0, 100, 120
NONE = {"direct": 0, "cart": 0, "open_cart": 0, "delayed": 0, "conversion": 0}


def grouped(times: Sequence[Sequence[int]]) -> PairEvents:
    """Events of several (user, item) pairs."""
    groups = np.repeat(np.arange(len(times)), [len(t) for t in times])
    flat = np.array([time for of_pair in times for time in sorted(of_pair)], np.int64)
    return PairEvents(flat, group_starts(groups, len(times)))


def labels(
    purchases: Sequence[int] = (),
    intents: Sequence[int] = (),
    click: int = 10,
    attribution: int = 1000,
    delayed: int | None = None,
    refund: int = 0,
    next_click: int = NEVER,
) -> dict[str, Any]:
    """Labels of one click; a second pair with events all over the time must not matter."""
    everywhere = list(range(0, 130))
    result, amounts = label(
        np.array([click]),
        np.array([[OPENS, STARTS, ENDS]]),
        np.array([1]),
        np.array([next_click]),
        grouped([everywhere, purchases, everywhere]),
        grouped([everywhere, intents, everywhere]),
        Periods(attribution, delayed, refund),
    )
    assert amounts == {}
    return {name: int(value[0]) for name, value in vars(result).items()}


def flags(**arguments: Any) -> dict[str, int]:
    return {name: value for name, value in labels(**arguments).items() if name in NONE}


def test_nothing_after_the_click():
    assert flags() == NONE
    assert labels()["conversion_delay_ms"] == -1


@pytest.mark.parametrize("time", [10, 11, 99])
def test_bought_from_the_click_until_the_promotion_is_direct(time):
    assert flags(purchases=[time]) == NONE | {"direct": 1, "conversion": 1}
    assert labels(purchases=[time])["conversion_delay_ms"] == time - 10


@pytest.mark.parametrize("time", [100, 119])
def test_bought_on_the_promotion_days_is_delayed(time):
    assert flags(purchases=[time]) == NONE | {"delayed": 1, "conversion": 1}
    assert labels(purchases=[time])["conversion_delay_ms"] == time - 10


@pytest.mark.parametrize("time", [9, 120, 121])
def test_bought_before_the_click_or_after_the_promotion_is_no_conversion(time):
    assert flags(purchases=[time]) == NONE


def test_a_direct_purchase_excludes_a_delayed_one():
    assert flags(purchases=[99, 100]) == NONE | {"direct": 1, "conversion": 1}
    assert labels(purchases=[99, 100])["conversion_delay_ms"] == 89


@pytest.mark.parametrize("time", [10, 99])
def test_a_cart_from_the_click_until_the_promotion_is_open(time):
    assert flags(intents=[time]) == NONE | {"cart": 1, "open_cart": 1}


@pytest.mark.parametrize("time", [9, 100, 119])
def test_a_cart_before_the_click_or_on_the_promotion_days_does_not_count(time):
    assert flags(intents=[time]) == NONE


def test_an_open_cart_bought_on_the_day():
    everything = {"cart": 1, "open_cart": 1, "delayed": 1, "conversion": 1}
    assert flags(intents=[20], purchases=[110]) == NONE | everything


@pytest.mark.parametrize("bought", [10, 15, 20, 30])
def test_a_cart_bought_before_the_promotion_is_not_open(bought):
    expected = NONE | {"cart": 1, "direct": 1, "conversion": 1}
    assert flags(intents=[20], purchases=[bought]) == expected


def test_events_of_the_clicks_own_timestamp_come_after_it():
    at_once = labels(purchases=[10], intents=[10])
    assert (at_once["direct"], at_once["cart"], at_once["open_cart"]) == (1, 1, 0)
    assert at_once["conversion_delay_ms"] == 0


@pytest.mark.parametrize(("time", "counts"), [(14, 1), (15, 0)])
def test_attribution_time_ends_exclusively(time, counts):
    assert flags(purchases=[time], attribution=5)["direct"] == counts
    assert flags(intents=[time], attribution=5)["cart"] == counts


def test_a_purchase_after_the_attribution_time_closes_the_cart_and_allows_a_delayed_one():
    late = labels(intents=[12], purchases=[50, 105], attribution=5)
    assert late["direct"] == 0
    assert (late["cart"], late["open_cart"]) == (1, 0)  # bought before the promotion started
    assert (late["delayed"], late["conversion_delay_ms"]) == (1, 95)


@pytest.mark.parametrize(("attribution", "known"), [(5, 15), (90, 100), (1000, 100)])
def test_known_times(attribution, known):
    result = labels(attribution=attribution)
    assert result["direct_known_ms"] == known
    assert result["delayed_known_ms"] == ENDS


@pytest.mark.parametrize(("time", "counts"), [(104, 1), (105, 0)])
def test_the_limit_of_delayed_purchases_ends_exclusively(time, counts):
    assert flags(purchases=[time], delayed=95)["delayed"] == counts
    assert flags(purchases=[50], delayed=5)["direct"] == 1  # limits no direct purchase


@pytest.mark.parametrize(("delayed", "known"), [(1, 100), (90, 100), (95, 105), (1000, 120)])
def test_with_a_limit_all_is_known_at_its_end_but_not_before_the_promotion(delayed, known):
    assert labels(delayed=delayed)["delayed_known_ms"] == known


def test_labels_are_known_when_no_refund_can_come_any_more():
    result = labels(attribution=5, delayed=95, refund=7)
    assert (result["direct_known_ms"], result["delayed_known_ms"]) == (22, 112)


@pytest.mark.parametrize(("time", "counts"), [(19, 1), (20, 0)])
def test_the_next_click_takes_over_the_credit(time, counts):
    assert flags(purchases=[time], next_click=20)["direct"] == counts
    assert flags(intents=[time], next_click=20)["cart"] == counts


@pytest.mark.parametrize(("next_click", "counts"), [(99, 0), (100, 1), (105, 1)])
def test_the_last_click_before_the_promotion_has_the_credit_on_its_days(next_click, counts):
    assert flags(purchases=[110], next_click=next_click)["delayed"] == counts


def test_a_purchase_that_another_click_has_the_credit_for_closes_the_cart():
    got = flags(intents=[15], purchases=[30], next_click=20)
    assert got == NONE | {"cart": 1}


def test_a_click_of_the_same_time_takes_over_all_credit():
    assert flags(intents=[10], purchases=[10, 110], next_click=10) == NONE


times = st.lists(st.integers(0, 130), max_size=5)


@given(
    times,
    times,
    st.integers(0, 99),
    st.sampled_from([1, 5, 50, 1000]),
    st.sampled_from([None, 1, 50, 100, 1000]),
    st.sampled_from([0, 3]),
    st.sampled_from([0, 20, NEVER]),
)
def test_labels_are_consistent(purchases, intents, click, attribution, delayed, refund, after):
    next_click = NEVER if after == NEVER else click + after
    got = labels(purchases, intents, click, attribution, delayed, refund, next_click)
    assert got["direct"] + got["delayed"] == got["conversion"]
    assert got["open_cart"] <= got["cart"]
    assert not (got["open_cart"] and got["direct"])
    assert (got["conversion_delay_ms"] >= 0) == bool(got["conversion"])
    assert click < got["direct_known_ms"] <= STARTS + refund <= got["delayed_known_ms"]


def test_a_batch_labels_each_click_by_its_own_pair_and_promotion():
    result, _ = label(
        np.array([10, 10, 210]),
        np.array([[0, 100, 120], [0, 100, 120], [200, 300, 320]]),
        np.array([0, 1, 0]),
        np.full(3, NEVER),
        grouped([[105, 250], [50]]),
        grouped([[], []]),
        Periods(1000),
    )
    assert result.direct.tolist() == [False, True, True]
    assert result.delayed.tolist() == [True, False, False]
    assert result.conversion_delay_ms.tolist() == [95, 40, 40]
    assert result.direct_known_ms.tolist() == [100, 100, 300]
    assert result.delayed_known_ms.tolist() == [120, 120, 320]


def test_quantity_and_value_are_summed_over_the_purchases_that_count():
    times = np.array([5, 10, 99, 100, 119, 120], np.int64)
    pieces = np.array([1, 2, 4, 8, 16, 32], np.int64)
    purchases = PairEvents(times, np.array([0, 6]), pieces, pieces / 2)
    clicks = np.array([10, 11, 100 - 1, 10])
    _, amounts = label(
        clicks,
        np.array([[OPENS, STARTS, ENDS]] * 4),
        np.zeros(4, np.int64),
        np.array([NEVER, NEVER, NEVER, 11]),
        purchases,
        grouped([[]]),
        Periods(88, delayed=109),
    )
    # The second: 99 comes after its 88; 119 is in its limit of 109, which ends at 120.
    assert amounts["direct_quantity"].tolist() == [2, 0, 4, 2]
    assert amounts["delayed_quantity"].tolist() == [0, 24, 0, 0]
    assert amounts["direct_value"].tolist() == [1, 0, 2, 1]
    assert amounts["delayed_value"].tolist() == [0, 12, 0, 0]
    assert [values.dtype for values in amounts.values()] == ["int64", "float32"] * 2


def test_no_clicks_give_no_labels():
    empty = np.zeros(0, np.int64)
    some = grouped([[]])
    result, _ = label(empty, empty.reshape(0, 3), empty, empty, some, some, Periods(5))
    assert all(value.shape == (0,) for value in vars(result).values())


def test_worked_example_of_the_handbook():
    zone = "Asia/Shanghai"

    def at(time: str) -> int:
        return to_ms(f"2025-11-{time}", zone)

    boundaries = ("2025-10-20", "2025-11-01", "2025-11-11", "2025-11-12")
    events = [
        event(1, item, kind, at(time))
        for item, kind, time in [
            (1, "click", "02T10:00"),
            (1, "cart", "02T10:05"),
            (1, "click", "04T09:00"),
            (1, "click", "08T20:00"),
            (1, "purchase", "11T00:03"),
            (2, "click", "03T12:00"),
            (2, "cart", "03T12:10"),
            (2, "purchase", "03T12:20"),
            (2, "purchase", "11T10:00"),
            (3, "click", "05T12:00"),
            (3, "cart", "05T13:00"),
            (3, "purchase", "09T08:00"),
            (3, "purchase", "11T10:00"),
            (4, "click", "10T23:50"),
            (4, "cart", "11T00:01"),
        ]
    ]
    log = Log(
        events,
        calendar=PromotionCalendar(zone, (promotion("d11", "double11", zone, boundaries),)),
        labels=LabelsConfig(attribution_days=3),
    )
    rows = sorted(log.rows(), key=lambda row: (row["item_id"], row["click_time_ms"]))
    got = [
        (*(row[name] for name in NONE), row["direct_known_ms"], row["conversion_delay_ms"])
        for row in rows
    ]
    minute = 60_000
    hour, day = 60 * minute, 24 * 60 * minute
    assert got == [
        (0, 1, 1, 1, 1, at("05T10:00"), 8 * day + 14 * hour + 3 * minute),
        (0, 0, 0, 1, 1, at("07T09:00"), 6 * day + 15 * hour + 3 * minute),
        (0, 0, 0, 1, 1, at("11T00:00"), 2 * day + 4 * hour + 3 * minute),
        (1, 1, 0, 0, 1, at("06T12:00"), 20 * minute),
        (0, 1, 0, 1, 1, at("08T12:00"), 5 * day + 22 * hour),
        (0, 0, 0, 0, 0, at("11T00:00"), -1),
    ]
    assert {row["delayed_known_ms"] for row in rows} == {at("12T00:00")}
