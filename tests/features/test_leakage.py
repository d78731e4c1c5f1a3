"""No look ahead: what comes at or after a click changes no feature of it.

And labels change with nothing but the later events on the same user and key, until they are known.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cmdcm.core.config import LabelsConfig
from cmdcm.tests.features.logs import Log, dense_log, fields, logs
from cmdcm.tests.features.reference import HOUR, Event, Row, open_window
from cmdcm.tests.features.reference_labels import all_known, same_key

SHOWN = ("user_id", "item_id", "category_id", "seller_id", "brand_id", "price")


def examples_of(log: Log, click: Event) -> list[Row]:
    """The engine's rows of one click (several if the log holds it several times)."""
    shown = [name for name in SHOWN if name in log.columns and name != "price"]
    return [
        row
        for row in log.rows()
        if row["click_time_ms"] == click["time"]
        and all(row[name] == click[name] for name in shown)
        and ("price" not in row or row["price"] == pytest.approx(click["price"]))
    ]


def part(log: Log, rows: Sequence[Row], *sides: str) -> list[Row]:
    """The columns of the given sides."""
    names = [f.name for f in log.spec.features if f.side in sides]
    return [{name: row[name] for name in names} for row in rows]


@st.composite
def logs_with_a_click(draw: st.DrawFn) -> tuple[Log, Event, list[Event]]:
    """A log, one of its clicks that is an example, and other events at any time.

    Without the settings that leave out clicks: whether a click makes an example may depend on the
    other events of its hour (bots) or its timestamp (repeated clicks).
    """
    log = draw(logs())
    log = replace(
        log,
        features=log.features.model_copy(update={"max_events_per_hour": 0}),
        labels=log.labels.model_copy(update={"dedup_seconds": 0}),
    )
    clicks = [
        e
        for e in log.events
        if e["kind"] == "click"
        and (window := open_window(e["time"], log.calendar)) is not None
        and all_known(e["time"], window, log.labels) <= log.observed_until_ms
    ]
    assume(clicks)
    values = fields(log.calendar, log.columns, log.string_ids, users=2, items=3)
    drawn = draw(
        st.lists(st.tuples(*(st.sampled_from(some) for some in values.values())), max_size=20)
    )
    others = [dict(zip(values, event, strict=True)) for event in drawn]
    click = draw(st.sampled_from(clicks))
    # Half of them on the click's own user and item, where they may do most harm.
    for event in others[::2]:
        event |= {"user_id": click["user_id"], "item_id": click["item_id"]}
    return log, click, others


@settings(max_examples=30)
@given(logs_with_a_click())
def test_no_feature_changes_with_events_at_or_after_the_click(case):
    log, click, others = case
    before = [e for e in log.events if e["time"] < click["time"]]
    later = [e for e in others if e["time"] >= click["time"]]
    changed = replace(log, events=[*later, click, *before])
    expected = part(log, examples_of(log, click), "user", "context", "item", "cross")
    got = part(log, examples_of(changed, click), "user", "context", "item", "cross")
    assert expected
    assert got
    assert all(row == expected[0] for row in [*expected, *got])


@settings(max_examples=30)
@given(logs_with_a_click())
def test_labels_change_with_nothing_but_later_events_on_the_key(case):
    log, click, others = case
    window = open_window(click["time"], log.calendar)
    assert window is not None
    known = all_known(click["time"], window, log.labels)
    by_refunds = log.labels.refunds == "cancel" or log.labels.refunded
    refunds = ("purchase", "refund") if by_refunds else ()

    def decides(event: Event) -> bool:
        # Refunds go by item: which purchase one cancels may hang on a purchase from elsewhere.
        same_user = event["user_id"] == click["user_id"]
        same = same_key(event, click, log.labels.attribute_to)
        return click["time"] <= event["time"] < known and (
            same or (same_user and event["kind"] in refunds)
        )

    kept = [e for e in log.events if decides(e)]
    changed = replace(log, events=[*(e for e in others if not decides(e)), *kept])
    expected = part(log, examples_of(log, click), "label", "meta")
    got = part(log, examples_of(changed, click), "label", "meta")
    assert expected
    # Of equal clicks the last one alone may have the credit; their order means nothing.
    assert sorted(map(repr, got)) == sorted(map(repr, expected))


@pytest.mark.parametrize("seed", [0, 1])
def test_features_of_the_log_cut_at_the_click_equal_those_of_the_whole_log(seed):
    log = dense_log(seed, columns=("user_id", "item_id", "kind", "timestamp", "category_id"))
    inputs = [f.name for f in log.spec.inputs]
    rows = log.rows()
    assert len(rows) > 30
    for row in rows[::2]:
        now = row["click_time_ms"]
        click = {**{name: row[name] for name in SHOWN[:3]}, "kind": "click", "time": now}
        cut = replace(log, events=[*(e for e in log.events if e["time"] < now), click])
        (live,) = examples_of(cut, click)
        assert {n: live[n] for n in inputs} == {n: row[n] for n in inputs}


@pytest.mark.parametrize("seed", range(4))
def test_settings_that_leave_out_clicks_leak_nothing_into_those_that_stay(seed):
    """Bots and repeated clicks: clicks of complete hours stay, or not, whatever comes later."""
    log = dense_log(seed, labels=LabelsConfig(dedup_seconds=3600))
    log = replace(log, features=log.features.model_copy(update={"max_events_per_hour": 8}))
    inputs = [f.name for f in log.spec.inputs]
    rows = [{n: row[n] for n in [*inputs, "click_time_ms"]} for row in log.rows()]
    assert len(rows) > 10
    for now in sorted({row["click_time_ms"] // HOUR * HOUR + HOUR for row in rows})[::3]:
        cut = replace(log, events=[e for e in log.events if e["time"] < now])
        live = [{n: row[n] for n in [*inputs, "click_time_ms"]} for row in cut.rows()]
        assert live == [row for row in rows if row["click_time_ms"] < now]


def test_the_checks_above_see_a_leak():
    """An event just before the click does change features, and one on the pair labels."""
    log = dense_log(0)
    row = log.rows()[0]
    click = {name: row[name] for name in ("user_id", "item_id", "category_id")}
    just_before = {**click, "kind": "cart", "time": row["click_time_ms"] - 1}
    just_after = {**click, "kind": "cart", "time": row["click_time_ms"]}
    one = Log([{**click, "kind": "click", "time": row["click_time_ms"]}])
    assert replace(one, events=[*one.events, just_before]).rows()[-1]["user_history"] == 1
    assert replace(one, events=[*one.events, just_after]).rows()[-1]["cart"] == 1
