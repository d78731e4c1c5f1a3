"""Percentiles, rates and errors against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.jobs.loadtest.driver import Calls
from cmdcm.jobs.loadtest.statistics import latency, percentile, summarize


def test_percentiles_are_recorded_values():
    values = np.arange(1000, 0, -1, dtype=float)
    assert [percentile(values, p) for p in (0, 50, 90, 99, 99.9, 99.95, 100)] == [
        *(1, 500, 900, 990, 999, 1000, 1000)
    ]
    assert percentile(np.array([7.0]), 50) == 7


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=200),
    st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]),
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values, percent):
    array = np.array(values)
    found = percentile(array, percent)
    need = percent / 100 * len(values) - 1e-6
    assert found in values
    assert (array <= found).sum() >= need
    assert (array < found).sum() < need + 2e-6


def calls(due, latencies, codes, late=0.0) -> Calls:
    due = np.array(due, float)
    return Calls(due, due + late, due + np.array(latencies, float), np.array(codes))


def test_a_summary_by_hand():
    made = calls(
        due=[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 2.9],
        latencies=[9.0, 9.0, 0.010, 0.030, 0.020, 0.001, 0.200],
        codes=["OK", "UNKNOWN", "OK", "OK", "OK", "UNAVAILABLE", "OK"],
        late=0.002,
    )
    sizes = np.array([10, 10, 10, 20, 10, 20, 20])
    found = summarize(made, sizes, warmup=1.0, seconds=3.0, client_cpu=0.05, server_cpu=0.1)
    assert found.seconds == 2
    assert found.offered == 2.5  # five calls in two seconds
    assert found.answered == 1.5  # the last one was answered after the end
    assert found.errors == {"UNAVAILABLE": 1}
    assert found.error_share == 0.2
    # Recorded: 10, 20, 30, 200 ms and one that never was answered.
    assert found.latency.calls == 5
    assert found.latency.percentiles[50.0] == pytest.approx(30)
    assert found.latency.percentiles[90.0] == math.inf
    assert found.by_size.keys() == {10, 20}
    assert found.by_size[10].percentiles[50.0] == pytest.approx(10)
    assert found.by_size[10].percentiles[99.0] == pytest.approx(20)
    assert found.by_size[20].percentiles[50.0] == pytest.approx(200)
    assert found.send_delay_ms == pytest.approx(2)
    assert found.client_cpu_ms == pytest.approx(10)
    assert found.server_cpu_ms == pytest.approx(20)


def test_quick_refusals_do_not_improve_percentiles():
    answered = [0.010] * 90
    good = summarize(
        calls(np.zeros(100), [*answered, *[0.050] * 10], ["OK"] * 100),
        np.ones(100, int), warmup=0.0, seconds=1.0,
    )  # fmt: skip
    refused = summarize(
        calls(np.zeros(100), [*answered, *[0.0001] * 10], ["OK"] * 90 + ["UNAVAILABLE"] * 10),
        np.ones(100, int), warmup=0.0, seconds=1.0,
    )  # fmt: skip
    assert good.latency.percentiles[99.0] == pytest.approx(50)
    assert refused.latency.percentiles[99.0] == math.inf
    assert refused.latency.percentiles[90.0] == pytest.approx(10)


def test_the_curve_goes_from_the_median_to_the_maximum():
    found = latency(np.arange(1.0, 10_001.0))
    percents, values = zip(*found.curve, strict=True)
    assert percents[0] == pytest.approx(50) and percents[-1] == 100
    assert values[0] == pytest.approx(5000, abs=1) and values[-1] == 10_000
    assert list(values) == sorted(values)
    assert [value for percent, value in found.curve if 98.9 < percent < 99.1]
    assert latency(np.array([3.0])).curve == ((100.0, 3.0),)


def test_nothing_to_measure():
    with pytest.raises(DataError, match="no call was due after the warm-up"):
        summarize(calls([0.0], [0.1], ["OK"]), np.ones(1, int), warmup=1.0, seconds=2.0)
