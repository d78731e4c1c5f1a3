"""Scores against labels that have arrived, with numbers worked out by hand."""

import math

import numpy as np
import polars as pl
import pytest

from cmdcm.core.config import MonitorConfig, load_config
from cmdcm.datasets.calendar import HOUR_MS, calendar_of, to_ms
from cmdcm.jobs.monitor.calibration import calibration, match

CALENDAR = calendar_of(load_config().calendar)
START = to_ms("2024-11-10T08:00", CALENDAR.timezone)
FEW = MonitorConfig(min_rows=1)
MINUTE = 60_000


def scores(*rows: tuple[int, int, int, float]) -> pl.DataFrame:
    """Scores as (user, item, minutes, p), of version 1."""
    return pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "item_id": [r[1] for r in rows],
            "time_ms": [START + r[2] * MINUTE for r in rows],
            "version": [1] * len(rows),
            "weight": [1.0] * len(rows),
            **{f"p_{h}": [r[3] for r in rows] for h in ("direct", "cart", "delayed", "conversion")},
            "slice:kind": ["a" if r[0] % 2 else "b" for r in rows],
        }
    )


def clicks(*rows: tuple[int, int, int, bool], known_h: float = 1, all_known_h: float = 9):
    """Clicks as (user, item, minutes, bought directly)."""
    times = [START + r[2] * MINUTE for r in rows]
    bought = [r[3] for r in rows]
    return pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "item_id": [r[1] for r in rows],
            "click_time_ms": times,
            **dict.fromkeys(("direct", "cart", "open_cart", "conversion"), bought),
            "delayed": [False] * len(rows),
            "direct_known_ms": [int(t + known_h * HOUR_MS) for t in times],
            "delayed_known_ms": [int(t + all_known_h * HOUR_MS) for t in times],
        }
    )


def measured(found, head, by="all"):
    return {e["value"]: e for e in found if (e["head"], e["by"]) == (head, by)}


def test_a_click_has_the_last_score_before_it():
    scored = scores((1, 2, 0, 0.1), (1, 2, 10, 0.2), (1, 2, 30, 0.3), (1, 3, 10, 0.4))
    clicked = clicks((1, 2, 20, True), (1, 2, 5, False), (2, 2, 20, True), (1, 2, 200, True))
    matched = match(scored, clicked, 60)
    assert matched.select("click_time_ms", "p_direct").rows() == [
        (START + 5 * MINUTE, 0.1),
        (START + 20 * MINUTE, 0.2),
    ]


def test_only_known_labels_count():
    scored = scores((1, 2, 0, 0.5), (3, 2, 0, 0.25), (4, 2, 0, 0.5))
    clicked = clicks((1, 2, 1, True), (3, 2, 1, False), (4, 2, 120, True))
    matched = match(scored, clicked, 600)
    found = calibration(matched, np.zeros(0), START + 2 * HOUR_MS, CALENDAR, FEW)
    (whole,) = measured(found, "direct").values()
    assert (whole["rows"], whole["positives"]) == (2, 1)  # the third is not known yet
    assert whole["pcoc"] == pytest.approx(0.75)
    assert whole["log_loss"] == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert not measured(found, "conversion")  # nothing of it is known
    assert not measured(found, "direct_so_far")  # no delays are known


def test_slices_hours_and_versions():
    scored = scores((1, 2, 0, 0.5), (4, 2, 70, 0.25))
    matched = match(scored, clicks((1, 2, 1, True), (4, 2, 71, True)), 60)
    found = calibration(matched, np.zeros(0), START + 9 * HOUR_MS, CALENDAR, FEW)
    pcoc = {v: e["pcoc"] for v, e in measured(found, "direct", "kind").items()}
    assert pcoc == pytest.approx({"a": 0.5, "b": 0.25})
    assert set(measured(found, "direct", "hour")) == {"2024-11-10 08:00", "2024-11-10 09:00"}
    assert measured(found, "direct", "version")["1"]["pcoc"] == pytest.approx(0.375)
    few = FEW.model_copy(update={"min_rows": 2})
    found = calibration(matched, np.zeros(0), START + 9 * HOUR_MS, CALENDAR, few)
    assert not measured(found, "direct", "kind")
    assert measured(found, "direct")  # the whole is always there


def test_weights_stand_for_what_was_not_sampled():
    scored = scores((1, 2, 0, 0.5), (3, 2, 0, 0.2)).with_columns(weight=pl.Series([1.0, 9.0]))
    matched = match(scored, clicks((1, 2, 1, True), (3, 2, 1, True)), 60)
    found = calibration(matched, np.zeros(0), START + 9 * HOUR_MS, CALENDAR, FEW)
    (whole,) = measured(found, "direct").values()
    assert whole["pcoc"] == pytest.approx((0.5 + 9 * 0.2) / 10)


def test_direct_so_far_expects_the_share_that_comes_so_soon():
    scored = scores((1, 2, 0, 0.5), (3, 2, 0, 0.5), (4, 2, 60, 0.5))
    clicked = clicks((1, 2, 0, True), (3, 2, 0, False), (4, 2, 60, False), known_h=100)
    delays = np.array([30, 90, 150, 600]) * MINUTE  # half come within two hours
    found = calibration(match(scored, clicked, 60), delays, START + 2 * HOUR_MS, CALENDAR, FEW)
    assert not measured(found, "direct")
    (so_far,) = measured(found, "direct_so_far").values()
    # Ages of 2, 2 and 1 hours, of which 2, 2 and 1 of four delays come so soon.
    assert so_far["pcoc"] == pytest.approx(0.5 * (0.5 + 0.5 + 0.25))
    assert so_far["log_loss"] is None


def test_the_interval_is_that_of_a_poisson_number():
    scored = scores(*((user, 2, 0, 0.4) for user in range(100)))
    matched = match(scored, clicks(*((u, 2, 1, u < 20) for u in range(100))), 60)
    found = calibration(matched, np.zeros(0), START + 9 * HOUR_MS, CALENDAR, FEW)
    (whole,) = measured(found, "direct").values()
    assert whole["pcoc"] == pytest.approx(2)
    # Of 20 events the mean lies between 12.217 and 30.888 (tables of Garwood's interval).
    assert whole["lower"] == pytest.approx(40 / 30.888, rel=1e-4)
    assert whole["upper"] == pytest.approx(40 / 12.217, rel=1e-4)


def test_without_positives_there_is_a_least_ratio_alone():
    scored = scores(*((user, 2, 0, 0.5) for user in range(40)))
    weights = pl.Series([2.0] * 40)
    scored = scored.with_columns(weight=weights)
    matched = match(scored, clicks(*((u, 2, 1, False) for u in range(40))), 60)
    found = calibration(matched, np.zeros(0), START + 9 * HOUR_MS, CALENDAR, FEW)
    (whole,) = measured(found, "direct").values()
    assert (whole["pcoc"], whole["upper"]) == (None, None)
    assert whole["lower"] == pytest.approx(20 / 3.6889, rel=1e-4)  # -ln 0.025
    assert whole["log_loss"] == pytest.approx(math.log(2))
