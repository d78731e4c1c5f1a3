"""The search for the highest rate, on servers whose limit is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import ConfigError
from cmdcm.jobs.loadtest.driver import Calls
from cmdcm.jobs.loadtest.saturation import Bounds, find_saturation
from cmdcm.jobs.loadtest.statistics import Summary, summarize


def answer(milliseconds: float, failed: int = 0) -> Summary:
    """A measurement of 100 calls of equal latency, some of which failed."""
    due = np.arange(100) / 100
    codes = np.array(["UNAVAILABLE"] * failed + ["OK"] * (100 - failed))
    calls = Calls(due, due, due + milliseconds / 1e3, codes)
    return summarize(calls, np.ones(100, int), warmup=0.0, seconds=1.0)


@given(st.floats(1.0, 2000.0), st.floats(1.0, 2000.0))
def test_the_limit_is_found_from_either_side(limit, first):
    found = find_saturation(
        lambda rate: answer(5 if rate <= limit else 50), Bounds(10), first, least=0.5, max_steps=60
    )
    assert found.sustained is not None and found.broken is not None
    assert found.sustained <= limit < found.broken
    assert found.broken <= found.sustained * 1.05
    assert [kept for _, _, kept in found.steps] == [rate <= limit for rate, _, _ in found.steps]


def test_errors_break_the_bounds_too():
    bounds = Bounds(10, error_share=0.01)
    assert bounds.kept(answer(9.9))
    assert bounds.kept(answer(5, failed=1))
    assert not bounds.kept(answer(5, failed=2))
    assert not bounds.kept(answer(10.1))
    assert not Bounds(10).kept(answer(5, failed=1))


def test_one_disturbance_decides_nothing():
    answers = iter([50, 5, 5, 50, 50, 50, 5, *[5] * 100])
    found = find_saturation(lambda _: answer(next(answers)), Bounds(10), 100.0, precision=0.2)
    rates = [round(rate) for rate, _, _ in found.steps]
    # 100 kept its bounds when repeated, 225 broke them twice, the middle of 150 and 225 did not.
    assert rates == [100, 100, 150, 225, 225, 184, 184, 203]
    assert (round(found.sustained or 0), found.broken) == (203, 225)


def test_a_search_ends():
    never = find_saturation(lambda _: answer(50), Bounds(10), 100.0, max_steps=4)
    assert (never.sustained, len(never.steps)) == (None, 4)
    given_up = find_saturation(lambda _: answer(50), Bounds(10), 100.0, least=50.0)
    assert [rate for rate, _, _ in given_up.steps] == [100, 100, 100 / 1.5, 100 / 1.5]
    always = find_saturation(lambda _: answer(5), Bounds(10), 100.0, max_steps=4)
    assert (always.broken, always.sustained) == (None, 100 * 1.5**3)


def test_bounds_that_cannot_be_used():
    with pytest.raises(ConfigError, match=r"Received: 0, 0\.0"):
        Bounds(0)
    with pytest.raises(ConfigError, match="errors from 0 to below 1"):
        Bounds(1, 1.0)
