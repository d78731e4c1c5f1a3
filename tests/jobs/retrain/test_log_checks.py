"""The checks of a snapshot: each fault that the runbook names is found, and a sound log passes."""

from datetime import date, timedelta

import pyarrow.parquet as pq
import pytest

from cmdcm.core.config import RetrainConfig
from cmdcm.core.errors import DataError
from cmdcm.datasets.calendar import calendar_of
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.retrain.log_checks import check_log, daily
from cmdcm.tests.jobs.retrain.worlds import config_of, events

DAYS = [(date(2024, 4, 1) + timedelta(n)).isoformat() for n in range(12)]
CONFIG = RetrainConfig(recent_days=4, min_daily_events=10)


def checked(tmp_path, days=None, last=DAYS[-1], config=CONFIG, prices=None):
    """Checks a log of days: 100 clicks, 40 carts and 20 purchases each, unless said otherwise."""
    folder = tmp_path / "log"
    folder.mkdir()
    for day in DAYS:
        counts = {"click": 100, "cart": 40, "purchase": 20} | (days or {}).get(day, {})
        rows = [
            (f"u{n % 7}", "i", kind, f"{day}T02:00")
            for kind, count in counts.items()
            for n in range(count)
        ]
        if not rows:
            continue
        table = events(rows)
        if prices is not None:
            import pyarrow as pa

            price = pa.array([prices.get(day, 10.0)] * len(rows), pa.float64())
            table = table.append_column("price", price)
        pq.write_table(table, folder / f"{day}.parquet")
    log = open_event_log(folder)
    calendar = calendar_of(config_of(tmp_path).calendar)
    return check_log(log, calendar, last, config)


def test_a_sound_log_passes(tmp_path):
    found = checked(tmp_path)
    assert found == {"days": 12, "first_day": DAYS[0], "last_day": DAYS[-1], "checked": 4}


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ({DAYS[5]: {"click": 0, "cart": 0, "purchase": 0}}, f"1 days without an event: {DAYS[5]}"),
        ({DAYS[-1]: {"purchase": 0}}, "0 events purchase for 100 clicks, similar days 20"),
        ({DAYS[-2]: {"cart": 900}}, "900 events cart for 100 clicks, similar days 40"),
        ({DAYS[-1]: {"click": 5}}, "5 clicks, similar days 100"),
    ],
)
def test_missing_days_outages_and_inflated_kinds_are_named(tmp_path, days, message):
    with pytest.raises(DataError, match=message):
        checked(tmp_path, days)


def test_data_that_have_not_arrived_are_missing_days(tmp_path):
    with pytest.raises(DataError, match="1 days without an event: 2024-04-13"):
        checked(tmp_path, last="2024-04-13")


def test_drifted_prices_are_named(tmp_path):
    with pytest.raises(DataError, match=f"{DAYS[-1]} has a median price of 1000, others 10"):
        checked(tmp_path, prices={DAYS[-1]: 1000.0})


def test_the_prices_of_a_day_with_few_events_are_not_judged(tmp_path):
    few = {DAYS[-1]: {"click": 5, "cart": 0, "purchase": 0}}
    config = CONFIG.model_copy(update={"max_daily_ratio": 1000.0})
    assert checked(tmp_path, few, prices={DAYS[-1]: 1000.0}, config=config)


def test_older_days_and_rare_kinds_are_not_judged(tmp_path):
    assert checked(tmp_path, {DAYS[2]: {"cart": 0}, DAYS[-1]: {"favourite": 9}})


def test_bounds_can_be_raised(tmp_path):
    config = CONFIG.model_copy(update={"max_daily_ratio": 100.0})
    assert checked(tmp_path, {DAYS[-2]: {"cart": 900}}, config=config)


def test_phases_are_compared_with_their_like(tmp_path):
    pq.write_table(events([("u", "i", "click", "2024-06-20T02:00")]), tmp_path / "d.parquet")
    log = open_event_log(tmp_path / "d.parquet")
    calendar = calendar_of(config_of(tmp_path).calendar)
    [day] = daily(log, log.files[0], calendar)
    assert (day["day"], day["phase"]) == ("2024-06-20", "promotion days")
