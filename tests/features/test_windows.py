"""The kernels against naive loops."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.windows import (
    NEVER,
    cancelled_purchases,
    first_at_or_after,
    group_starts,
    last_before,
    repeated_clicks,
    running_totals,
    window_counts,
    window_sums,
)

KINDS = 3
group_lists = st.lists(
    st.lists(st.tuples(st.integers(-5, 20), st.integers(-1, KINDS - 1)), max_size=8).map(sorted),
    min_size=1,
    max_size=4,
)
"""Groups of (time, kind), sorted by time; kind -1 is counted nowhere."""


@st.composite
def grouped_queries(draw):
    """Groups, and queries (group or -1, instant) of them."""
    groups = draw(group_lists)
    queries = st.lists(
        st.tuples(st.integers(-1, len(groups) - 1), st.integers(-6, 22)), max_size=10
    )
    return groups, draw(queries)


def flatten(groups):
    times = np.array([time for group in groups for time, _ in group], np.int64)
    kinds = np.array([kind for group in groups for _, kind in group], np.int64)
    numbers = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return times, kinds, group_starts(numbers, len(groups))


def columns(queries):
    pairs = np.array(queries, np.int64).reshape(-1, 2)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def entries(groups, group):
    return [] if group < 0 else groups[group]


@given(grouped_queries(), st.lists(st.integers(-3, 30), min_size=1, max_size=4))
def test_window_counts(case, lengths):
    groups, queries = case
    times, kinds, starts = flatten(groups)
    numbers, until = columns(queries)
    since = until[:, None] - np.array(lengths, np.int64)
    got = window_counts(times, running_totals(kinds, KINDS), starts, numbers, until, since)
    expected = [
        [
            sum(k == kind and end - length <= time < end for time, k in entries(groups, group))
            for kind in range(KINDS)
            for length in lengths
        ]
        for group, end in queries
    ]
    assert got.tolist() == expected
    assert got.shape == (len(queries), KINDS * len(lengths))
    assert got.dtype == np.int32


@given(grouped_queries())
def test_first_at_or_after(case):
    groups, queries = case
    times, _, starts = flatten(groups)
    expected = [
        min((time for time, _ in entries(groups, group) if time >= instant), default=NEVER)
        for group, instant in queries
    ]
    assert first_at_or_after(times, starts, *columns(queries)).tolist() == expected


@given(grouped_queries(), st.integers(1, 5))
def test_last_before(case, length):
    groups, queries = case
    times, _, starts = flatten(groups)
    numbers, before = columns(queries)
    offsets, positions, ages = last_before(times, starts, numbers, before, length)
    got = [positions[first:end].tolist() for first, end in pairwise(offsets)]
    expected = []
    for group, instant in queries:
        earlier = [n for n, (time, _) in enumerate(entries(groups, group)) if time < instant]
        first = starts[group] if group >= 0 else 0
        expected.append([first + n for n in reversed(earlier)][:length])
    assert got == expected
    instants = np.repeat([instant for _, instant in queries], np.diff(offsets))
    assert ages.tolist() == [i - times[p] for i, p in zip(instants, positions, strict=True)]
    assert offsets.dtype == np.int32


@given(group_lists)
def test_group_starts(groups):
    _, _, starts = flatten(groups)
    assert np.diff(starts).tolist() == [len(group) for group in groups]
    assert starts[0] == 0


@given(st.lists(st.integers(-1, KINDS - 1), max_size=20))
def test_running_totals(kinds):
    got = running_totals(np.array(kinds, np.int64), KINDS)
    expected = [[kinds[:n].count(kind) for kind in range(KINDS)] for n in range(len(kinds) + 1)]
    assert got.tolist() == expected


def test_counts_stay_right_where_running_totals_pass_the_largest_int32():
    top = np.iinfo(np.int32).max
    prefix = np.array([[top - 1], [top], [-top - 1], [-top]], np.int32)  # wraps around
    times = np.arange(3)
    starts = np.array([0, 3])
    got = window_counts(times, prefix, starts, np.array([0]), np.array([3]), np.array([[0, 1, 2]]))
    assert got.tolist() == [[3, 2, 1]]


@given(grouped_queries(), st.sampled_from([0, 1, 5, 30]), st.booleans())
def test_window_sums(case, length, whole):
    groups, queries = case
    times, _, starts = flatten(groups)
    values = np.arange(1, len(times) + 1) * (1 if whole else 0.5)
    numbers, since = columns(queries)
    got = window_sums(times, values, starts, numbers, since, since + length)
    assert got.dtype == values.dtype
    for (group, instant), total in zip(queries, got, strict=True):
        low, high = (0, 0) if group < 0 else starts[group : group + 2]
        inside = (times >= instant) & (times < instant + length)
        assert total == values[low:high][inside[low:high]].sum()


def test_a_repeated_click_does_not_repeat_for_the_next_one():
    times = np.array([0, 4, 5, 9, 10, 10, 3, 3, 8])
    groups = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    expected = [False, True, False, True, False, True, False, True, False]
    assert repeated_clicks(times, groups, 5).tolist() == expected
    assert repeated_clicks(times[:0], groups[:0], 5).tolist() == []


def cancelled(events, within=100):
    """Events of one group: a time, negative for a refund."""
    times = np.abs(np.array(events, np.int64))
    refunds = np.array(events) < 0
    return cancelled_purchases(times, np.zeros(len(times), np.int64), refunds, within).tolist()


def test_refunds_cancel_the_latest_purchase_that_is_left():
    assert cancelled([1, 2, -3, -4]) == [True, True, False, False]
    assert cancelled([1, 2, -3, 4, -5, -6, -7]) == [True, True, False, True] + [False] * 3
    assert cancelled([-1, 2]) == [False, False]
    assert cancelled([1, -11, 12, -13], within=10) == [True, False, True, False]
    assert cancelled([1, -12, 13, -14, -15], within=10) == [False, False, True, False, False]


def test_refunds_do_not_reach_into_another_group():
    times, refunds = np.array([1, 2, 3]), np.array([False, True, True])
    assert cancelled_purchases(times, np.array([0, 1, 1]), refunds, 9).tolist() == [False] * 3
