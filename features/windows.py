"""Numba kernels over time-sorted groups: every look-back of the features goes through them.

All take entries sorted by (group, time): `times[starts[g]:starts[g + 1]]` are the times of group
`g`. A query names its group, or -1 for a group that does not exist. NumPy allocates the results,
since it asks for huge pages: to touch memory that Numba allocates costs several times the filling.
"""

from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Values = TypeVar("Values", npt.NDArray[np.int64], npt.NDArray[np.float64])

NEVER = np.iinfo(np.int64).max
"""The time of an event that did not happen."""


@numba.njit(nogil=True, cache=True)
def _lower_bound(times: Int64s, low: int, high: int, value: int) -> int:  # pragma: no cover
    """First position in [low, high) whose time is at least `value`."""
    while low < high:
        middle = (low + high) // 2
        if times[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


def window_counts(
    times: Int64s | Int32s,
    prefix: Int32s,
    starts: Int64s,
    groups: Int64s,
    until: Int64s,
    since: Int64s,
) -> Int32s:
    """Counts by kind in the half-open windows [since, until) of each query.

    Args:
        times: [entries], sorted by (group, time).
        prefix: [entries + 1, kinds], running totals of each kind over all entries.
        starts: [groups + 1].
        groups: [queries].
        until: [queries], exclusive end.
        since: [queries, windows], inclusive starts.

    Returns:
        [queries, kinds * windows], kind-major.
    """
    result = np.zeros((len(groups), prefix.shape[1] * since.shape[1]), np.int32)
    _count(times, prefix, starts, groups, until, since, result)
    return result


@numba.njit(nogil=True, cache=True)
def _count(
    times: Int64s,
    prefix: Int32s,
    starts: Int64s,
    groups: Int64s,
    until: Int64s,
    since: Int64s,
    result: Int32s,
) -> None:  # pragma: no cover
    windows = since.shape[1]
    for query in range(len(groups)):
        group = groups[query]
        if group < 0:
            continue
        low = starts[group]
        end = _lower_bound(times, low, starts[group + 1], until[query])
        if end == low:
            continue
        for window in range(windows):
            begin = _lower_bound(times, low, end, since[query, window])
            if begin == end:
                continue
            for kind in range(prefix.shape[1]):
                count = prefix[end, kind] - prefix[begin, kind]
                result[query, kind * windows + window] = count


@numba.njit(nogil=True, cache=True)
def first_at_or_after(
    times: Int64s, starts: Int64s, groups: Int64s, instants: Int64s
) -> Int64s:  # pragma: no cover
    """Time of each query's first entry at or after its instant, else `NEVER`."""
    result = np.full(len(groups), NEVER, np.int64)
    for query in range(len(groups)):
        group = groups[query]
        if group < 0:
            continue
        end = starts[group + 1]
        position = _lower_bound(times, starts[group], end, instants[query])
        if position < end:
            result[query] = times[position]
    return result


def last_before(
    times: Int64s, starts: Int64s, groups: Int64s, instants: Int64s, length: int
) -> tuple[Int32s, Int64s, Int64s]:
    """The last `length` entries strictly before each query's instant, newest first.

    Returns:
        offsets [queries + 1], positions [offsets[-1]] and ages [offsets[-1]]: the entries of query
        q are at `positions[offsets[q]:offsets[q + 1]]`, each that much older than the instant.
    """
    ends = np.empty(len(groups), np.int64)
    offsets = np.zeros(len(groups) + 1, np.int32)
    _find_before(times, starts, groups, instants, length, ends, offsets)
    positions = np.empty(offsets[-1], np.int64)
    ages = np.empty(offsets[-1], np.int64)
    _list_before(times, instants, ends, offsets, positions, ages)
    return offsets, positions, ages


@numba.njit(nogil=True, cache=True)
def _find_before(
    times: Int64s,
    starts: Int64s,
    groups: Int64s,
    instants: Int64s,
    length: int,
    ends: Int64s,
    offsets: Int32s,
) -> None:  # pragma: no cover
    for query in range(len(groups)):
        group = groups[query]
        found = 0
        if group >= 0:
            low = starts[group]
            ends[query] = _lower_bound(times, low, starts[group + 1], instants[query])
            found = min(length, ends[query] - low)
        offsets[query + 1] = offsets[query] + found


@numba.njit(nogil=True, cache=True)
def _list_before(
    times: Int64s,
    instants: Int64s,
    ends: Int64s,
    offsets: Int32s,
    positions: Int64s,
    ages: Int64s,
) -> None:  # pragma: no cover
    for query in range(len(ends)):
        position = ends[query]
        for place in range(offsets[query], offsets[query + 1]):
            position -= 1
            positions[place] = position
            ages[place] = instants[query] - times[position]


@numba.njit(nogil=True, cache=True)
def window_sums(
    times: Int64s, values: Values, starts: Int64s, groups: Int64s, since: Int64s, until: Int64s
) -> Values:  # pragma: no cover
    """Sums of values in the half-open window [since, until) of each query, added in order."""
    result = np.zeros(len(groups), values.dtype)
    for query in range(len(groups)):
        group = groups[query]
        if group < 0:
            continue
        end = starts[group + 1]
        position = _lower_bound(times, starts[group], end, since[query])
        while position < end and times[position] < until[query]:
            result[query] += values[position]
            position += 1
    return result


@numba.njit(nogil=True, cache=True)
def repeated_clicks(times: Int64s, groups: Int64s, gap: int) -> Bools:  # pragma: no cover
    """Whether each click comes less than `gap` after the last one of its group that is not so.

    Args:
        times: [clicks], sorted by (group, time).
        groups: [clicks].
        gap: In the unit of `times`.
    """
    repeated = np.zeros(len(times), np.bool_)
    kept = 0
    for click in range(1, len(times)):
        if groups[click] == groups[kept] and times[click] < times[kept] + gap:
            repeated[click] = True
        else:
            kept = click
    return repeated


@numba.njit(nogil=True, cache=True)
def cancelled_purchases(
    times: Int64s, groups: Int64s, is_refund: Bools, within: int
) -> Bools:  # pragma: no cover
    """Which purchases a refund cancels: the latest one left, if at most `within` before it.

    Args:
        times: [events], of purchases and refunds, sorted by (group, time).
        groups: [events].
        is_refund: [events].
        within: In the unit of `times`.

    Returns:
        [events], False for all refunds.
    """
    cancelled = np.zeros(len(times), np.bool_)
    left = np.empty(len(times), np.int64)
    count = 0
    for event in range(len(times)):
        if event > 0 and groups[event] != groups[event - 1]:
            count = 0
        if not is_refund[event]:
            left[count] = event
            count += 1
        elif count > 0 and times[event] - times[left[count - 1]] <= within:
            count -= 1
            cancelled[left[count]] = True
    return cancelled


def group_starts(groups: Int64s, count: int) -> Int64s:
    """Returns `starts` [count + 1] for entries whose sorted group numbers are `groups`."""
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(groups, minlength=count), out=starts[1:])
    return starts


def running_totals(kinds: Int64s, count: int) -> Int32s:
    """Returns `prefix` [entries + 1, count] for entries of one event each, -1 for none."""
    prefix = np.zeros((len(kinds) + 1, count), np.int32)
    for kind in range(count):
        np.cumsum(kinds == kind, out=prefix[1:, kind])
    return prefix
