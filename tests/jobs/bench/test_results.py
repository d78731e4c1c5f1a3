"""Means, intervals and p-values over seeds, against numbers computed by hand."""

import numpy as np
import polars as pl
import pytest

from cmdcm.jobs.bench.plan import load_plan
from cmdcm.jobs.bench.results import Figure, rows
from cmdcm.model.multiplicity import adjusted


def test_student_interval_of_three_seeds():
    # Mean 2, standard error 1 / sqrt 3; the 97.5 % quantile of t with 2 degrees is 4.3027.
    interval = Figure(np.array([1.0, 2.0, 3.0]), None).interval(0.95)
    assert interval.estimate == 2
    assert interval.lower == pytest.approx(2 - 4.302653 / 3**0.5, rel=1e-6)
    assert interval.upper == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-6)


def test_student_p_value_of_two_seeds():
    # With one degree t is Cauchy: P(|t| > 3) = 1 - 2 atan(3) / pi; the mean is 1.5, its error .5.
    p_value = Figure(np.array([1.0, 2.0]), None).p_value()
    assert p_value == pytest.approx(1 - 2 * np.arctan(3) / np.pi)


def test_seeds_without_a_value_do_not_count():
    figure = Figure(np.array([1.0, np.nan, 2.0]), None)
    assert figure.interval(0.95).estimate == 1.5
    assert Figure(np.array([np.nan]), None).interval(0.95).estimate is None
    assert Figure(np.array([1.0, np.nan]), None).interval(0.95).lower is None
    assert Figure(np.array([1.0, np.nan]), None).p_value() is None


def test_bootstrap_of_a_log_averages_the_seeds_draws():
    draws = np.stack([np.arange(101.0), np.arange(101.0) + 2])  # means: 1 ... 101
    figure = Figure(np.array([50.0, 52.0]), draws)
    interval = figure.interval(0.9)
    assert (interval.estimate, interval.lower, interval.upper) == pytest.approx((51, 6, 96))
    error = np.std(np.arange(1, 102), ddof=1)
    expected = 2 * (1 - _normal(51 / float(error)))
    assert figure.p_value() == pytest.approx(expected)


def test_equal_models_differ_by_nothing():
    figure = Figure(np.array([0.7, 0.8]), None)
    assert (figure - figure).p_value() == 1
    assert (figure - figure).interval(0.95).to_json() == {"estimate": 0, "lower": 0, "upper": 0}


def test_differences_are_paired_and_corrected_over_a_world_and_head(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        'title = "T"\nbaseline = "a"\nseeds = [1, 2, 3]\n'
        "[worlds.w]\n[models.a]\n[models.b]\n[models.c]\n"
    )
    plan = load_plan(str(path))
    # Seeds differ much, models little and always alike: only the paired difference shows it.
    base = np.array([0.5, 0.7, 0.9])
    values = {"a": base, "b": base + np.array([0.010, 0.011, 0.012])}
    values["c"] = base + np.array([0.01, -0.01, 0.0])
    figures = {("w", m, "conversion", "auc"): Figure(v, None) for m, v in values.items()}
    figures |= {("w", m, "conversion", "pcoc"): Figure(v, None) for m, v in values.items()}
    frame = rows(figures, plan, 0.95, "holm")
    auc = frame.filter(pl.col("metric") == "auc")
    assert auc["difference"].to_list() == [None, pytest.approx(0.011), pytest.approx(0)]
    error = 0.001 / 3**0.5
    lower, upper = auc["difference_lower"][1], auc["difference_upper"][1]
    assert (lower, upper) == pytest.approx((0.011 - 4.302653 * error, 0.011 + 4.302653 * error))
    assert auc["adjusted_p_value"].to_list() == adjusted(auc["p_value"].to_list(), "holm")
    assert auc["adjusted_p_value"][1] == pytest.approx(2 * auc["p_value"][1])
    # PCOC has no better and worse: it is shown, and not compared.
    assert frame.filter(pl.col("metric") == "pcoc")["difference"].to_list() == [None] * 3


def _normal(z: float) -> float:
    from statistics import NormalDist

    return NormalDist().cdf(z)
