"""`world_taobao` against the published counts of the Taobao User Behavior log, and a sample of it.

The counts of the full log are published facts. Those of a sample of 1,024 whole users were taken
from it once; where the sample is there (CMDCM_TAOBAO_LOG), they are held against it.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cmdcm.core.config import load_config
from cmdcm.datasets import simulator
from cmdcm.datasets.calendar import DAY_MS, to_ms
from cmdcm.datasets.simulation.world import World

SAMPLE = Path(
    os.environ.get("CMDCM_TAOBAO_LOG")
    or Path(__file__).resolve().parents[3] / "shared/data/taobao/UserBehavior.csv.gz"
)

PAIR = ["user_id", "item_id"]
START = to_ms("2017-11-25", "Asia/Shanghai")
PROMOTION = to_ms("2017-12-02", "Asia/Shanghai")

ROWS = 100.15
"""Million rows of the full log."""
ORDINARY_DAYS = (9.9, 10.9)
PROMOTION_DAYS = (13.8, 13.7)
BOUGHT = 0.0606
"""Share of carted (user, item) pairs that are bought at or after the first cart."""
GAPS = {600: 0.097, 3_600: 0.108, 21_600: 0.078, 86_400: 0.311, 10**9: 0.406}
"""Seconds from cart to purchase, up to; share of the carted pairs that are bought."""

KINDS = {"click": 0.8990, "cart": 0.0546, "favourite": 0.0259, "purchase": 0.0204}
"""Of the sample of 1,024 users: shares of the kinds of event."""
EVENTS_OF_A_USER = {0.1: 19, 0.25: 39, 0.5: 75, 0.75: 135, 0.9: 225, 0.95: 291}
"""Of the sample: quantiles of the number of a user's events."""


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"no Taobao sample at {SAMPLE}")
def test_the_constants_are_those_of_the_sample():
    names = ["user", "item", "category", "kind", "seconds"]
    rows = pl.read_csv(SAMPLE, has_header=False, new_columns=names)
    day = (1000 * pl.col("seconds") - START) // DAY_MS
    rows = rows.filter(day.is_between(0, 8))
    names_of = {"pv": "click", "fav": "favourite", "buy": "purchase"}
    shares = rows["kind"].replace(names_of).value_counts(normalize=True)
    assert dict(shares.iter_rows()) == pytest.approx(KINDS, abs=1e-4)
    count = rows.group_by("user").len()["len"]
    assert {q: count.quantile(q) for q in EVENTS_OF_A_USER} == EVENTS_OF_A_USER


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    world = World.open(load_config(preset="world_taobao", overrides=["simulate.events=600000"]))
    columns = [*PAIR, "kind", "timestamp"]
    return pl.concat(
        pl.DataFrame(simulator.draw_chunk(world, n).events.select(columns))
        for n in range(simulator.chunk_count(world))
    ).with_columns(pl.col("kind").cast(pl.String), ms=pl.col("timestamp").dt.epoch("ms"))


def test_nine_days_and_their_rows_within_four_percent(events: pl.DataFrame):
    day = (events["ms"].to_numpy() - START) // DAY_MS
    assert (day.min(), day.max()) == (0, 8)
    rows = np.bincount(day) / len(day) * ROWS
    assert (rows[:7] > 0.96 * ORDINARY_DAYS[0]).all()
    assert (rows[:7] < 1.04 * ORDINARY_DAYS[1]).all()
    np.testing.assert_allclose(rows[7:], PROMOTION_DAYS, rtol=0.04)


def test_kinds_within_six_percent(events: pl.DataFrame):
    shares = dict(events["kind"].value_counts(normalize=True).iter_rows())
    assert shares == pytest.approx(KINDS, rel=0.06)


def test_daily_mix_of_carts_and_purchases(events: pl.DataFrame):
    kind = pl.col("kind")
    mix = events.group_by(day=(pl.col("ms") - START) // DAY_MS).agg(
        cart=(kind == "cart").mean(), purchase=(kind == "purchase").mean()
    )
    # In the sample carts are 5.2 to 5.7 % of a day's rows, purchases 1.6 to 2.5 %.
    assert mix["cart"].is_between(0.045, 0.065).all()
    assert mix["purchase"].is_between(0.012, 0.028).all()


def carted(events: pl.DataFrame) -> pl.DataFrame:
    """Carted pairs: the first cart, and the first purchase at or after it if there is one."""
    carts = events.filter(pl.col("kind") == "cart").group_by(PAIR).agg(cart=pl.col("ms").min())
    purchases = events.filter(pl.col("kind") == "purchase").select(*PAIR, purchase="ms")
    bought = (
        carts.join(purchases, on=PAIR)
        .filter(pl.col("purchase") >= pl.col("cart"))
        .group_by(PAIR)
        .agg(pl.col("purchase").min())
    )
    return carts.join(bought, on=PAIR, how="left")


def test_share_of_carted_pairs_bought_within_a_tenth(events: pl.DataFrame):
    pairs = carted(events)
    assert 1 - pairs["purchase"].null_count() / len(pairs) == pytest.approx(BOUGHT, rel=0.1)
    # Of the sample's pairs carted before the promotion, 1.0 % were bought on its days.
    early = pairs.filter(pl.col("cart") < PROMOTION)
    on_days = (early["purchase"] >= PROMOTION).sum() / len(early)
    assert on_days == pytest.approx(0.0098, rel=0.2)


def test_gaps_from_cart_to_purchase_within_three_points(events: pl.DataFrame):
    pairs = carted(events).drop_nulls()
    gaps = ((pairs["purchase"] - pairs["cart"]) / 1000).to_numpy()
    shares = np.diff([0.0, *((gaps <= seconds).mean() for seconds in GAPS)])
    np.testing.assert_allclose(shares, list(GAPS.values()), atol=0.03)


def test_events_of_a_user_within_fifteen_percent(events: pl.DataFrame):
    count = events.group_by("user_id").len()["len"]
    assert count.mean() == pytest.approx(101.7, rel=0.05)
    for quantile, expected in EVENTS_OF_A_USER.items():
        # The sample's least active tenth is less active than a log-normal's.
        tolerance = 0.15 if quantile > 0.1 else 0.35
        assert count.quantile(quantile) == pytest.approx(expected, rel=tolerance), quantile
