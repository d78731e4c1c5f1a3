"""Labels that have arrived: the examples' own once all are known, and no later event before."""

import datetime

import polars as pl
import pytest

from cmdcm.core.config import LabelsConfig, load_config
from cmdcm.datasets.calendar import DAY_MS, HOUR_MS, calendar_of, to_ms
from cmdcm.datasets.events import KIND_ENUM
from cmdcm.datasets.log import open_event_log
from cmdcm.features.columns import LABELS
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.known_labels import labelled_clicks
from cmdcm.tests.jobs.monitor.logs import records

CALENDAR = calendar_of(load_config().calendar)
START = to_ms("2024-11-10T00:00", CALENDAR.timezone)
PROMOTION = next(p for p in CALENDAR.promotions if p.name == "double11-2024")


def log(*events: tuple[int, int, str, int]) -> pl.DataFrame:
    """Events as (user, item, kind, UTC ms)."""
    return pl.DataFrame(
        {
            "user_id": [user for user, *_ in events],
            "item_id": [item for _, item, *_ in events],
            "kind": pl.Series([kind for *_, kind, _ in events]).cast(KIND_ENUM),
            "timestamp": [
                datetime.datetime.fromtimestamp(time / 1000, datetime.UTC) for *_, time in events
            ],
        },
        schema_overrides={"user_id": pl.Int64, "item_id": pl.Int64},
    )


def test_labels_are_those_of_the_examples_once_they_are_known(small_world):
    config = small_world.config
    data = ExampleSet.open(small_world.examples, config.split)
    events = open_event_log(small_world.events).scan().collect()
    made = labelled_clicks(events, data.calendar, config.labels)
    keys = ["user_id", "item_id", "click_time_ms"]
    for part in ("train", "test"):
        _, frame = records(data, part)
        both = frame.unique(keys, keep="none").join(made, on=keys, suffix="_made")
        assert len(both) > 0.9 * len(frame)
        for name in (*LABELS, "direct_known_ms", "delayed_known_ms"):
            assert (both[name] == both[f"{name}_made"].cast(pl.Int64)).all(), name


def test_a_click_has_what_has_happened_until_now():
    click, later = START, START + HOUR_MS
    events = log((1, 2, "click", click), (1, 2, "purchase", later), (1, 3, "click", click))
    now = labelled_clicks(events.head(1), CALENDAR, LabelsConfig())
    assert now.select("direct", "conversion", "direct_delay_ms").row(0) == (False, False, None)
    afterwards = labelled_clicks(events, CALENDAR, LabelsConfig())
    assert afterwards.select("item_id", "direct", "direct_delay_ms").rows() == [
        (2, True, HOUR_MS),
        (3, False, None),
    ]
    # When a label can be believed does not depend on what happened.
    assert now["direct_known_ms"][0] == PROMOTION.promotion_start_ms
    assert set(afterwards["delayed_known_ms"]) == {PROMOTION.promotion_end_ms}


def test_a_short_attribution_is_known_early():
    events = log((1, 2, "click", START))
    found = labelled_clicks(events, CALENDAR, LabelsConfig(attribution_days=0.25))
    assert found["direct_known_ms"][0] == START + DAY_MS // 4


@pytest.mark.parametrize("count", [0, 1])
def test_clicks_outside_a_window_are_none(count):
    events = log((1, 2, "click", PROMOTION.promotion_start_ms)).head(count)
    found = labelled_clicks(events, CALENDAR, LabelsConfig())
    assert found.is_empty()
    assert found.columns[:3] == ["user_id", "item_id", "click_time_ms"]
