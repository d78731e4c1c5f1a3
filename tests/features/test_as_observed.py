"""Examples of clicks whose labels are not known: what a stream sees of them at an instant."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.features.arrivals import Policy, entries
from cmdcm.features.examples import build_examples
from cmdcm.features.history import History, partition_totals
from cmdcm.features.labels import Periods
from cmdcm.tests.features.logs import Log, dense_log, dense_log_of_every_attribution, instants, logs
from cmdcm.tests.features.reference import DAY, HOUR

END = 1_800_000_000_000
POLICIES = (Policy(), Policy(again="late"), Policy(again="all"), Policy(waits=False, again="late"))
CLICK = ("user_id", "item_id", "click_time_ms", "clicked_item_ids", "user_counts")


def as_observed(log: Log, as_of_ms: int, first: int = 0) -> list[dict]:
    """The engine's rows of all clicks before an instant, known labels or not."""
    frame = log.frame()
    kinds = log.features.count_kinds
    history = History.of([partition_totals(frame, log.calendar, kinds, log.labels.intent)], kinds)
    wanted = replace(
        log.settings, observed_until_ms=as_of_ms, as_observed=True, first_promotion=first
    )
    return [row for table in build_examples(frame, history, wanted) for row in table.to_pylist()]


def stream(rows: list[dict], label: str, policy: Policy, wait: int, until: int) -> list[str]:
    """What enters before an instant: which click, when, and what is said of it."""
    if not rows:
        return []
    columns = {
        name: np.array([row[name] for row in rows], np.int64)
        for name in ("click_time_ms", "conversion_delay_ms", label)
    }
    known = "direct_known_ms" if label == "direct" else "delayed_known_ms"
    delays = np.where(columns[label] == 1, columns["conversion_delay_ms"] + wait, -1)
    made = entries(
        columns["click_time_ms"],
        delays,
        np.array([row[known] for row in rows], np.int64),
        6 * HOUR,
        policy,
    ).between(0, until)
    return sorted(
        str([rows[row][name] for name in CLICK] + [time, observed, repeat])
        for row, time, observed, repeat in zip(
            made.row.tolist(),
            made.time_ms.tolist(),
            made.observed.tolist(),
            made.repeat.tolist(),
            strict=True,
        )
    )


def same_stream(log: Log, as_of_ms: int) -> int:
    """Checks what an instant knows of the stream against what all later events say of it."""
    # A later event of the same hour may make a bot of a user.
    log = replace(log, features=log.features.model_copy(update={"max_events_per_hour": 0}))
    final = replace(log, observed_until_ms=END).rows()
    known = as_observed(log, as_of_ms)
    past = [event for event in log.events if event["time"] < as_of_ms]
    assert known == as_observed(replace(log, events=past), as_of_ms)
    periods, total = Periods.of(log.labels), 0
    wait = periods.refund if periods.cancel else 0
    for label in ("conversion", "direct"):
        for policy in POLICIES:
            expected = stream(final, label, policy, wait, as_of_ms)
            assert stream(known, label, policy, wait, as_of_ms) == expected
            total += len(expected)
    return total


@settings(max_examples=60)
@given(logs(), st.data())
def test_the_stream_until_an_instant_is_the_one_that_later_events_confirm(log, data):
    same_stream(log, data.draw(st.sampled_from(instants(log.calendar))))


@pytest.mark.parametrize("seed", range(6))
def test_so_it_is_of_larger_logs(seed):
    log = dense_log_of_every_attribution(seed)
    promotion = log.calendar.promotions[2]
    middle = (promotion.pre_promotion_start_ms + promotion.promotion_start_ms) // 2
    assert same_stream(log, middle) and same_stream(log, promotion.promotion_start_ms + 5 * HOUR)


def test_only_the_named_promotions_and_no_later_click_make_examples():
    log = dense_log(1)
    promotion = log.calendar.promotions[2]
    as_of = promotion.pre_promotion_start_ms + DAY
    rows = as_observed(log, as_of, first=2)
    assert rows and {row["promotion"] for row in rows} == {promotion.name}
    assert max(row["click_time_ms"] for row in rows) < as_of
    assert {row["observation_time_ms"] for row in rows} == {as_of}
    assert all(row["observation_time_ms"] < row["delayed_known_ms"] for row in rows)
