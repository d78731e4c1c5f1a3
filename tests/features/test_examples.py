"""The engine against the reference: every value, every type, every row in its place."""

import random
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings

from cmdcm.core.config import FeaturesConfig, LabelsConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import PromotionCalendar, to_ms
from cmdcm.features.examples import build_examples
from cmdcm.features.history import History, partition_totals
from cmdcm.tests.features.logs import (
    EVERY_COLUMN,
    Log,
    calendar_in,
    dense_log,
    dense_log_of_every_attribution,
    event,
    logs,
)
from cmdcm.tests.features.reference import DAY, HOUR, KIND_ORDER

WINDOW = to_ms("2024-03-02", "Asia/Shanghai")
START = to_ms("2024-03-05", "Asia/Shanghai")
END = to_ms("2024-03-06", "Asia/Shanghai")


def types_of(log: Log) -> dict[str, pa.DataType]:
    """The Arrow type of each column, said once more."""

    def id_type(column: str) -> pa.DataType:
        return pa.string() if column in log.string_ids else pa.int64()

    counters = pa.list_(
        pa.int32(), len(log.features.count_kinds) * (len(log.features.windows_hours) + 1)
    )
    types = {"user_id": id_type("user_id"), "user_history": pa.int64(), "user_counts": counters}
    types["user_promotions"] = pa.list_(pa.int32(), 7)
    categories = "category_id" in log.columns
    for name in ("clicked", "favourited", "carted", "purchased"):
        types[f"{name}_item_ids"] = pa.list_(id_type("item_id"))
        if categories:
            types[f"{name}_category_ids"] = pa.list_(id_type("category_id"))
        types[f"{name}_ages"] = pa.list_(pa.int64())
    types |= {"hours_to_promotion": pa.float32(), "hour_of_day": pa.int64(), "weekday": pa.int64()}
    types |= {"promotion_kind": pa.string(), "item_id": id_type("item_id")}
    for column in ("category_id", "seller_id", "brand_id"):
        if column in log.columns:
            types[column] = id_type(column)
    if "price" in log.columns:
        types["price"] = pa.float32()
    types |= {"item_counts": counters, "item_promotions": pa.list_(pa.int32(), 6)}
    if categories:
        types |= {"category_counts": counters, "category_promotions": pa.list_(pa.int32(), 6)}
    types["user_item_counts"] = counters
    if categories:
        types["user_category_counts"] = counters
    types |= dict.fromkeys(
        ("direct", "cart", "open_cart", "delayed", "conversion"),
        pa.int64(),
    )
    if log.labels.values:
        types |= dict.fromkeys(("direct_quantity", "delayed_quantity"), pa.int64())
        if "price" in log.columns:
            types |= dict.fromkeys(("direct_value", "delayed_value"), pa.float32())
    types |= {name: pa.int64() for name in ("micro", "refunded") if getattr(log.labels, name)}
    types["promotion"] = pa.string()
    types |= dict.fromkeys(
        (
            "click_time_ms",
            "observation_time_ms",
            "direct_known_ms",
            "delayed_known_ms",
            "conversion_delay_ms",
        ),
        pa.int64(),
    )
    if log.labels.refunded:
        types["refunded_known_ms"] = pa.int64()
    return types


def assert_equals_reference(log: Log) -> None:
    expected = log.reference()
    got = log.rows()
    assert len(got) == len(expected)
    for row, wanted in zip(got, expected, strict=True):
        assert row == {name: wanted[name] for name in log.spec.names()}


@settings(max_examples=70)
@given(logs())
def test_small_logs_equal_the_reference(log):
    assert_equals_reference(log)


def dense_log_of_all_columns(seed: int) -> Log:
    zone = ("Asia/Shanghai", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe")[seed % 4]
    return dense_log(
        seed,
        columns=EVERY_COLUMN,
        string_ids=((), ("item_id", "category_id"), ("user_id", "seller_id"))[seed % 3],
        calendar=calendar_in(zone),
        labels=LabelsConfig(intent=("cart", "favourite")[seed % 2], attribution_days=1.5),
    )


@pytest.mark.parametrize("seed", range(12))
def test_dense_logs_equal_the_reference(seed):
    assert_equals_reference(dense_log_of_all_columns(seed))


def test_dense_logs_hold_what_they_are_for():
    rows = [row for seed in range(12) for row in dense_log_of_all_columns(seed).reference()]
    assert len(rows) > 500
    for label in ("direct", "cart", "open_cart", "delayed"):
        assert 20 < sum(row[label] for row in rows) < len(rows) - 20
    for name, value in rows[0].items():
        if isinstance(value, list):
            assert sum(any(row[name]) for row in rows) > 100, name


@settings(max_examples=20)
@given(logs())
def test_types_and_order_of_columns(log):
    for table in log.examples():
        assert dict(zip(table.schema.names, table.schema.types, strict=True)) == types_of(log)
        assert table.schema.names == list(log.spec.names())
        table.validate(full=True)


@pytest.mark.parametrize("seed", range(4, 10))
def test_result_does_not_depend_on_the_order_of_the_events(seed):
    log = dense_log_of_every_attribution(seed)
    expected = log.examples()
    shuffled = list(log.events)
    for attempt in range(3):
        random.Random(attempt).shuffle(shuffled)
        assert replace(log, events=shuffled).examples() == expected


@pytest.mark.parametrize("partitions", [2, 3, 7])
def test_result_does_not_depend_on_how_users_are_partitioned(partitions):
    log = dense_log(1, columns=EVERY_COLUMN, string_ids=("user_id",))
    rows = [row for table in log.examples(partitions) for row in table.to_pylist()]
    assert sorted(rows, key=repr) == sorted(log.rows(), key=repr)


@pytest.mark.parametrize("rows", [1, 7, 50_000])
def test_tables_hold_days_in_order_of_one_promotion_and_at_most_the_rows_asked_for(rows):
    log = dense_log(0)
    tables = log.examples(rows=rows)
    days = [
        str(day)
        for table in tables
        for day in log.calendar.local_days(table["click_time_ms"].to_numpy())
    ]
    assert days == sorted(days)
    assert len(set(days)) > len({row["promotion"] for row in log.rows()}) > 1
    assert all(len(set(table["promotion"].to_pylist())) == 1 for table in tables)
    assert all(0 < len(table) <= rows for table in tables)
    assert [row for table in tables for row in table.to_pylist()] == log.rows()


def test_clicks_from_window_start_until_promotion_start_are_examples():
    times = [WINDOW - 1, WINDOW, START - 1, START, END - 1, END]
    log = Log([event(1, n, "click", time) for n, time in enumerate(times)])
    assert [row["item_id"] for row in log.rows()] == [1, 2, 5]
    assert [row["promotion"] for row in log.rows()] == ["a", "a", "b"]


@pytest.mark.parametrize(("observed_until", "examples"), [(END - 1, 0), (END, 1)])
def test_a_click_is_an_example_once_its_promotion_is_observed(observed_until, examples):
    log = Log([event(1, 1, "click", WINDOW)], observed_until_ms=observed_until)
    assert len(log.rows()) == examples


def test_only_clicks_are_examples():
    others = ("impression", "micro", "favourite", "cart", "purchase", "refund")
    assert Log([event(1, 1, kind, WINDOW) for kind in others]).examples() == []


@pytest.mark.parametrize("events", [[], [event(1, 1, "click", WINDOW)]])
def test_a_calendar_without_promotions_gives_no_examples(events):
    assert Log(events, calendar=PromotionCalendar("UTC", ())).examples() == []


def test_a_user_with_one_event_has_empty_lists_and_zero_counts():
    (row,) = Log([event(1, 2, "click", WINDOW, category=None)]).rows()
    assert row["category_id"] is None
    assert row["user_history"] == 0
    for name, value in row.items():
        if name.endswith("_counts"):
            assert value == [0] * 12, name
        if name.endswith(("_item_ids", "_category_ids", "_ages")):
            assert value == [], name
    assert row["user_promotions"] == [0] * 7
    assert row["item_promotions"] == row["category_promotions"] == [0] * 6


def test_own_counts_from_inclusive_starts_until_just_before_the_click():
    click = WINDOW + 2 * DAY
    times = [click - DAY - 1, click - DAY, click - HOUR - 1, click - HOUR, click - 1, click]
    earlier = [event(1, 2, "cart", time) for time in [WINDOW - 1, WINDOW, *times]]
    log = Log(
        [*earlier, event(1, 2, "click", click)],
        features=FeaturesConfig(windows_hours=(1, 24), count_kinds=("cart",)),
    )
    (row,) = log.rows()
    # 1 hour: at click - HOUR and click - 1; the window: all but the one before it and the tie.
    assert row["user_counts"] == row["user_item_counts"] == [2, 4, 6]
    assert row["user_history"] == 7


def test_the_history_is_what_the_user_did_and_not_what_was_shown():
    past = [event(1, 3, kind, WINDOW) for kind in KIND_ORDER]
    (row,) = Log([*past, event(1, 2, "click", WINDOW + HOUR)]).rows()[1:]
    assert row["user_history"] == len(KIND_ORDER) - 1


def test_an_impression_that_is_an_example_has_the_features_of_a_click():
    past = [event(user, 2, kind, WINDOW) for kind in KIND_ORDER for user in (1, 2)]
    inputs = [f.name for f in Log([]).spec.inputs]
    rows = []
    for kind in ("click", "impression"):
        log = Log([*past, event(1, 2, kind, WINDOW + HOUR)])
        kinds, intent = log.features.count_kinds, log.labels.intent
        history = History.of([partition_totals(log.frame(), log.calendar, kinds, intent)], kinds)
        of_kind = replace(log.settings, anchor_kind=kind)
        (table,) = build_examples(log.frame(), history, of_kind)
        rows += [r for r in table.to_pylist() if r["click_time_ms"] == WINDOW + HOUR]
    click, impression = rows
    assert {n: click[n] for n in inputs} == {n: impression[n] for n in inputs}
    assert impression["user_history"] == 6


def test_item_counts_see_complete_hours_of_all_users():
    hour = WINDOW + 2 * DAY
    times = [hour - DAY - 1, hour - DAY, hour - HOUR - 1, hour - HOUR, hour - 1, hour, hour + 1]
    others = [event(user, 2, "cart", time) for user, time in enumerate(times, start=10)]
    log = Log(
        [*others, event(1, 2, "click", hour + HOUR // 2)],
        features=FeaturesConfig(windows_hours=(1, 24), count_kinds=("cart",)),
    )
    (row,) = log.rows()
    assert row["item_counts"] == [2, 4, 5]
    assert row["user_item_counts"] == [0, 0, 0]


def test_item_counts_since_a_window_that_opens_at_half_past_count_complete_hours_in_it():
    calendar = calendar_in("Asia/Kolkata")  # local midnight is at half past in UTC
    opened = calendar.get("a").pre_promotion_start_ms
    assert opened % HOUR == HOUR // 2
    times = [opened, opened + HOUR // 2 - 1, opened + HOUR // 2]
    log = Log(
        [
            *(event(user, 2, "cart", time) for user, time in enumerate(times, start=10)),
            event(1, 2, "click", opened + 2 * HOUR),
        ],
        calendar=calendar,
        features=FeaturesConfig(windows_hours=(1, 24), count_kinds=("cart",)),
    )
    (row,) = log.rows()
    assert row["item_counts"][-1] == 1


def test_sequences_are_newest_first_and_cut_to_their_length():
    click = WINDOW + DAY
    log = Log(
        [
            event(1, 5, "click", click - 5000),
            event(1, 4, "click", click - 4000, category=9),
            event(1, 7, "click", click - 3999, category=8),
            event(1, 6, "click", click - 3999),
            event(1, 9, "cart", click - 1),
            event(1, 2, "click", click),
            event(2, 3, "click", WINDOW - 1),
        ]
    )
    row = log.rows()[-1]
    assert row["clicked_item_ids"] == [7, 6, 4]  # of one timestamp the larger item first
    assert row["clicked_category_ids"] == [8, 0, 9]
    assert row["clicked_ages"] == [3, 3, 4]  # whole seconds
    assert (row["carted_item_ids"], row["carted_ages"]) == ([9], [0])
    assert row["purchased_item_ids"] == []


def test_earlier_promotions_count_once_they_are_over():
    b = to_ms("2024-03-06", "Asia/Shanghai")
    log = Log(
        [
            # Promotion a: two clicks; item 1 carted and bought on the day; item 2 carted and bought
            # before; item 3 carted twice and left; item 4 bought on the day without a cart.
            event(1, 1, "click", WINDOW, category=5),
            event(1, 1, "click", WINDOW + 1, category=5),
            event(1, 1, "cart", WINDOW + 2, category=5),
            event(1, 1, "purchase", START, category=5),
            event(1, 1, "purchase", END - 1, category=5),
            event(1, 2, "cart", WINDOW + 2, category=5),
            event(1, 2, "purchase", START - 1, category=5),
            event(1, 3, "cart", WINDOW + 2, category=6),
            event(1, 3, "cart", WINDOW + 3, category=6),
            event(1, 4, "purchase", END - 1, category=6),
            event(2, 1, "cart", WINDOW, category=5),
            # In the window of b, which opens as a ends: not over at the click.
            event(1, 1, "cart", b, category=5),
            event(1, 1, "click", b + 1, category=5),
        ]
    )
    in_a, *_, in_b = log.rows()
    assert in_a["user_promotions"] == [0] * 7
    # promotions seen, clicks, intents, of them bought, open intents, of them bought,
    # day purchases
    assert in_b["user_promotions"] == [1, 2, 3, 1, 2, 1, 3]
    assert in_b["item_promotions"] == [2, 2, 1, 2, 1, 2]
    assert in_b["category_promotions"] == [2, 3, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("click", "view"), r"features\.count_kinds.*'view'.*'click'"),
        (("click", "click"), r"features\.count_kinds.*each once.*'click', 'click'"),
        ((), r"features\.count_kinds.*at least one"),
    ],
)
def test_kinds_that_cannot_be_counted_are_an_error(kinds, message):
    with pytest.raises(ConfigError, match=message):
        _ = Log([], features=FeaturesConfig(count_kinds=kinds)).spec
