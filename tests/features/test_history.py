"""Totals over all users: sums by hour and by promotion, and how they are looked up."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.datasets.calendar import PromotionCalendar, built_in
from cmdcm.datasets.events import KIND_ENUM
from cmdcm.features.columns import ITEM_PROMOTIONS, USER_PROMOTIONS
from cmdcm.features.hashing import hash_ids
from cmdcm.features.history import (
    History,
    factorize,
    locate,
    partition_totals,
    promotion_pairs,
    user_promotions,
)
from cmdcm.tests.features.logs import Log, calendar_in, dense_log, event, logs
from cmdcm.tests.features.reference import HOUR

TAOBAO_LOG = Path(
    os.environ.get("CMDCM_TAOBAO_LOG")
    or Path(__file__).resolve().parents[3] / "shared/data/taobao/UserBehavior.csv.gz"
)
CALENDAR = calendar_in("Asia/Shanghai")
OPENS, STARTS, ENDS = (int(instant) for instant in CALENDAR.bounds()[0])


def pair_sums(*events: tuple[str, int], intent: str = "cart") -> dict[str, int]:
    """The sums of one user and item in the first promotion."""
    log = Log([event(1, 2, kind, time) for kind, time in events])
    pairs = promotion_pairs(log.frame(), CALENDAR, intent)
    assert len(pairs) == 1
    return {name: pairs[name][0] for name in ITEM_PROMOTIONS if pairs[name][0]}


def test_clicks_count_in_the_window_and_purchases_on_the_days():
    sums = pair_sums(
        ("click", OPENS),
        ("click", STARTS - 1),
        ("click", STARTS),  # on the day: no click of the window
        ("purchase", STARTS),
        ("purchase", ENDS - 1),
    )
    assert sums == {"clicks": 2, "day_purchases": 2}


def test_an_intent_is_counted_once_for_a_pair():
    assert pair_sums(("cart", OPENS), ("cart", OPENS + 5)) == {"intents": 1, "open_intents": 1}


def test_the_intent_is_the_configured_event():
    events = (("favourite", OPENS), ("click", OPENS))
    assert pair_sums(*events) == {"clicks": 1}
    assert pair_sums(*events, intent="favourite") == {"clicks": 1, "intents": 1, "open_intents": 1}


def test_an_intent_on_the_promotion_day_is_none():
    assert pair_sums(("cart", STARTS), ("purchase", STARTS)) == {"day_purchases": 1}


@pytest.mark.parametrize("bought", [OPENS + 5, OPENS + 6, STARTS - 1])
def test_a_purchase_at_or_after_the_first_intent_closes_it(bought):
    assert pair_sums(("cart", OPENS + 5), ("purchase", bought)) == {"intents": 1}


def test_a_purchase_before_the_first_intent_leaves_it_open():
    sums = pair_sums(("purchase", OPENS), ("cart", OPENS + 1))
    assert sums == {"intents": 1, "open_intents": 1}


def test_an_open_intent_bought_on_the_day():
    sums = pair_sums(("cart", OPENS), ("purchase", STARTS), ("purchase", STARTS))
    assert sums == {
        "intents": 1,
        "intents_bought": 1,
        "open_intents": 1,
        "open_intents_bought": 1,
        "day_purchases": 2,
    }


def test_a_closed_intent_bought_again_on_the_day_is_no_open_one():
    sums = pair_sums(("cart", OPENS), ("purchase", OPENS), ("purchase", STARTS))
    assert sums == {"intents": 1, "intents_bought": 1, "day_purchases": 1}


def test_of_several_categories_a_pair_belongs_to_the_smallest():
    events = [event(1, 2, "click", OPENS + n, category) for n, category in enumerate([8, None, 7])]
    (pair,) = promotion_pairs(Log(events).frame(), CALENDAR, "cart").to_dicts()
    assert pair["category_id"] == 7


def test_locate_finds_windows_and_days():
    phases: dict[int, tuple[int | None, int]] = {OPENS - 1: (None, -1)}
    for number, (opens, starts, ends) in enumerate(CALENDAR.bounds().tolist()):
        phases |= dict.fromkeys((opens, starts - 1), (number, 0))
        phases |= dict.fromkeys((starts, ends - 1), (number, 1))
        if ends not in CALENDAR.bounds()[:, 0]:  # where no other window opens at once
            phases[ends] = (None, -1)
    numbers, got = locate(np.array(list(phases)), CALENDAR)
    assert len(CALENDAR.promotions) == 4
    assert len(phases) == 4 * 4 + 1 + 3
    for (expected, phase), number, p in zip(phases.values(), numbers, got, strict=True):
        assert p == phase
        assert 0 <= number < len(CALENDAR.promotions)  # an index even where it means nothing
        assert expected in (None, number)


def test_locate_without_promotions():
    _, phases = locate(np.array([0, 5]), PromotionCalendar("UTC", ()))
    assert phases.tolist() == [-1, -1]


def test_hours_are_sums_of_the_counted_kinds():
    log = dense_log(3)
    kinds = ("click", "refund")
    totals = partition_totals(log.frame(), CALENDAR, kinds, "cart")
    for entity in ("item", "category"):
        expected = Counter(
            (hash_ids(pl.Series([e[f"{entity}_id"]]))[0], e["time"] // HOUR, e["kind"])
            for e in log.events
            if e[f"{entity}_id"] is not None and e["kind"] in kinds
        )
        got = {
            (row["key"], row["time"], kind): row[kind]
            for row in totals[f"{entity}_hours"].to_dicts()
            for kind in kinds
            if row[kind]
        }
        assert got == expected


@settings(max_examples=15)
@given(logs(), st.integers(1, 4))
def test_totals_add_up_however_users_are_partitioned(log, partitions):
    def totals(events):
        return partition_totals(
            log.frame(events), log.calendar, log.features.count_kinds, log.labels.intent
        )

    users = sorted({e["user_id"] for e in log.events})
    parts = [
        [e for e in log.events if users.index(e["user_id"]) % partitions == n]
        for n in range(partitions)
    ]
    whole = History.of([totals(log.events)], log.features.count_kinds)
    summed = History.of([totals(part) for part in parts], log.features.count_kinds)
    for timelines, same in ((whole.hours, summed.hours), (whole.promotions, summed.promotions)):
        assert timelines.keys() == same.keys()
        for name, timeline in timelines.items():
            for piece, values in vars(timeline).items():
                assert getattr(same[name], piece).tolist() == values.tolist()


def test_a_log_without_categories_has_totals_of_items_alone():
    log = Log([event(1, 2, "click", OPENS)], columns=("user_id", "item_id", "kind", "timestamp"))
    totals = partition_totals(log.frame(), CALENDAR, ("click",), "cart")
    assert sorted(totals) == ["item_hours", "item_promotions"]


@pytest.mark.parametrize("ids", [[3, None, 1, 3, None, 2], ["b", "", None, "a", "b", "ä"]])
def test_factorize_numbers_ids_by_their_first_row(ids):
    distinct, codes = factorize(pl.Series(ids))
    assert distinct.to_list() == list(dict.fromkeys(x for x in ids if x is not None))
    assert [None if code < 0 else distinct[int(code)] for code in codes] == ids


def test_user_promotions_sum_each_users_own():
    log = Log(
        [
            event(1, 2, "click", OPENS),
            event(1, 3, "click", OPENS),
            event(2, 3, "purchase", STARTS),  # no click in the window: promotion not seen
        ]
    )
    timeline = user_promotions(log.frame(), CALENDAR, "cart")
    groups = timeline.find(hash_ids(pl.Series([1, 2, 3])))
    got = timeline.counts(groups, np.array([1, 1, 1]), np.zeros((3, 1), np.int64))
    named = [dict(zip(USER_PROMOTIONS, row, strict=True)) for row in got.tolist()]
    assert [(row["promotions_seen"], row["clicks"], row["day_purchases"]) for row in named] == [
        (1, 2, 0),
        (0, 0, 1),
        (0, 0, 0),
    ]


@pytest.mark.skipif(not TAOBAO_LOG.exists(), reason=f"the public Taobao log is not at {TAOBAO_LOG}")
def test_the_public_taobao_sample_has_its_published_pairs():
    raw = pl.read_csv(
        TAOBAO_LOG,
        has_header=False,
        new_columns=["user_id", "item_id", "category_id", "kind", "timestamp"],
    )
    kinds = {"pv": "click", "fav": "favourite", "cart": "cart", "buy": "purchase"}
    events = raw.with_columns(
        pl.from_epoch("timestamp", time_unit="s").dt.cast_time_unit("ms"),
        pl.col("kind").replace_strict(kinds, return_dtype=KIND_ENUM),
    )
    pairs = promotion_pairs(events, built_in("taobao"), "cart")
    carted = pairs.filter(pl.col("intents") > 0)
    assert len(carted) == 3987  # first carted before 2 December
    assert (carted["day_purchases"] > 0).sum() == 39
