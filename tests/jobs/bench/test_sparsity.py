"""The yardstick of the sparsity gap, against enumerations and hand-computed numbers."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.jobs.bench.sparsity import (
    best_rival,
    expected_metrics,
    gap_tables,
    interval_of,
    with_shares,
)
from cmdcm.jobs.tables import number

PROBABILITY = st.floats(0.01, 0.99)


@given(st.lists(st.tuples(PROBABILITY, PROBABILITY), min_size=2, max_size=8))
def test_metrics_are_expectations_over_independent_outcomes(clicks):
    true, predicted = (np.array(column) for column in zip(*clicks, strict=True))
    got = expected_metrics(true, predicted)
    loss = -np.mean(true * np.log(predicted) + (1 - true) * np.log(1 - predicted))
    assert got["log_loss"] == pytest.approx(loss)
    assert got["pcoc"] == pytest.approx(predicted.sum() / true.sum())
    # A positive and a negative, drawn by their weights; ties count half.
    pairs = np.outer(true, 1 - true)
    above = np.sign(predicted[:, None] - predicted[None, :]) / 2 + 0.5
    assert got["auc"] == pytest.approx((pairs * above).sum() / pairs.sum())


@given(st.lists(st.tuples(PROBABILITY, PROBABILITY), min_size=2, max_size=8))
def test_nothing_is_better_than_the_truth(clicks):
    true, predicted = (np.array(column) for column in zip(*clicks, strict=True))
    best, other = expected_metrics(true, true), expected_metrics(true, predicted)
    assert best["log_loss"] is not None and other["log_loss"] is not None
    assert best["auc"] is not None and other["auc"] is not None
    assert best["log_loss"] <= other["log_loss"] + 1e-12
    assert best["auc"] >= other["auc"] - 1e-12
    assert best["pcoc"] == pytest.approx(1)


def frame_of(head: str, losses: dict[str, list[float]]) -> pl.DataFrame:
    place = {"world": "w", "part": "later", "slice": "all", "head": head, "rows": 1}
    rows = [
        place | {"seed": seed, "model": m, "log_loss": loss, "auc": 1 - loss, "pcoc": 1.0}
        for m, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    return pl.DataFrame(rows)


def shares(frame: pl.DataFrame, model: str) -> list[tuple[float | None, float | None]]:
    rows = with_shares(frame).filter(pl.col("model") == model).sort("seed")
    return list(rows.select("share_oracle", "share_ceiling").iter_rows())


def test_shares_of_the_gap_start_at_vanilla_and_end_at_the_oracle_seed_by_seed():
    losses = {"vanilla": [0.5, 0.7], "m": [0.4, 0.65], "ceiling": [0.3, 0.6], "oracle": [0.1, 0.5]}
    frame = frame_of("conversion", losses)
    assert shares(frame, "m") == [pytest.approx((0.25, 0.5)), pytest.approx((0.25, 0.5))]
    assert [share for share, _ in shares(frame, "vanilla")] == [0, 0]
    assert [share for share, _ in shares(frame, "oracle")] == [1, 1]


def test_heads_that_vanilla_lacks_start_at_the_rate_and_have_no_ceiling():
    losses = {"rate": [0.5], "m": [0.4], "oracle": [0.1]}
    assert shares(frame_of("delayed", losses), "m") == [(pytest.approx(0.25), None)]
    # Without an anchor there is no share, rather than one of another gap.
    assert shares(frame_of("conversion", losses), "m") == [(None, None)]


def test_the_best_rival_is_the_best_mean_and_its_difference_is_paired():
    losses = {"own": [0.1, 0.3], "a": [0.2, 0.4], "b": [0.5, 0.0], "not a rival": [0.0, 0.0]}
    frame = with_shares(frame_of("delayed", losses))
    name, gain = best_rival(frame, "own", ["a", "b"], "log_loss", 0.95)
    assert name == "b"
    # Differences -0.4 and 0.3: mean -0.05, error 0.35, t of one degree of freedom 12.706.
    assert gain.estimate == pytest.approx(-0.05)
    assert gain.upper == pytest.approx(-0.05 + 0.35 * 12.706, abs=1e-3)
    name, gain = best_rival(frame, "own", ["a"], "auc", 0.95)
    assert (name, gain.estimate) == ("a", pytest.approx(0.1))


def test_tables_hold_means_over_the_seeds():
    losses = {"rate": [0.5, 0.7], "m": [0.3, 0.4], "oracle": [0.1, 0.1]}
    (table,) = gap_tables(with_shares(frame_of("delayed", losses)), 0.95)
    assert table.caption == "w: delayed"
    (row,) = (row for row in table.rows if row[1] == "m")
    assert row[3].startswith("0.35000 [")
    assert row[5].startswith("0.500 [")
    assert {row[6] for row in table.rows} == {number(None, 3)}  # delayed has no ceiling


def test_seeds_without_a_figure_are_left_out():
    assert interval_of(pl.Series([0.2, None, 0.4]), 0.95).estimate == pytest.approx(0.3)
    assert interval_of(pl.Series([None], dtype=pl.Float64), 0.95).estimate is None
