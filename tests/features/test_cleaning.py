"""Which events of bots are dropped."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.cleaning import drop_bots
from cmdcm.tests.features.logs import Log, event
from cmdcm.tests.features.reference_labels import HOUR, without_bots

NOON = 1_709_337_600_000  # a full hour, UTC


def kept(events: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """The (user, time) that stay."""
    schema = {"user_id": pl.Int64, "time": pl.Int64}
    frame = pl.DataFrame(events, schema=schema, orient="row").with_columns(
        timestamp=pl.col("time").cast(pl.Datetime("ms", "UTC"))
    )
    left = drop_bots(frame, most)
    assert left.schema == frame.schema
    return list(left.select("user_id", "time").iter_rows())


def test_everything_from_the_first_hour_of_too_many_events_on_is_dropped():
    before = [(1, NOON - 1), (1, NOON - HOUR)]
    hour = [(1, NOON), (1, NOON + 5), (1, NOON + HOUR - 1)]
    after = [(1, NOON + HOUR), (1, NOON + 100 * HOUR)]
    assert kept([*after, *before, *hour], 2) == before
    assert kept([*after, *before, *hour], 3) == [*after, *before, *hour]


def test_hours_are_those_of_the_clock_not_any_sixty_minutes():
    events = [(1, NOON - 2), (1, NOON - 1), (1, NOON), (1, NOON + 1)]
    assert kept(events, 2) == events


def test_users_are_judged_each_by_their_own_events():
    events = [(1, NOON), (2, NOON), (1, NOON + 1), (2, NOON + HOUR), (3, NOON)]
    assert kept(events, 1) == [(2, NOON), (2, NOON + HOUR), (3, NOON)]


def test_zero_is_no_limit():
    assert kept([(1, NOON)] * 50, 0) == [(1, NOON)] * 50


events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 12).map(lambda n: NOON + n * HOUR // 4))
)


@given(events, st.integers(0, 4))
def test_equals_the_reference(drawn, most):
    expected = without_bots([{"user_id": user, "time": time} for user, time in drawn], most)
    assert kept(drawn, most) == [(e["user_id"], e["time"]) for e in expected]


@given(events, st.integers(1, 4), st.integers(0, 12))
def test_what_stays_of_an_hour_depends_on_no_later_hour(drawn, most, hours):
    now = NOON + hours * HOUR // 4 // HOUR * HOUR
    of_all = [event for event in kept(drawn, most) if event[1] < now]
    past = [event for event in drawn if event[1] < now]
    assert of_all == kept(past, most)


def test_a_bot_makes_neither_examples_nor_labels_nor_counts():
    opened = Log([]).calendar.promotions[0].pre_promotion_start_ms
    events = [
        event(1, 5, "click", opened + HOUR),
        *(event(1, 5, "click", opened + 2 * HOUR + n) for n in range(3)),
        event(1, 5, "purchase", opened + 3 * HOUR),
        event(2, 5, "click", opened + 5 * HOUR),
    ]
    plain = Log(events)
    features = plain.features.model_copy(update={"max_events_per_hour": 2})
    first, other = Log(events, features=features).rows()
    assert len(plain.rows()) == 5
    assert [row["direct"] for row in plain.rows()[:1]] == [1]
    assert (first["user_id"], first["direct"], other["user_id"]) == (1, 0, 2)
    # Clicks of all users on the item in the day before: the bot's first one alone.
    assert other["item_counts"][1] == 1
    assert plain.rows()[-1]["item_counts"][1] == 4
