"""Running totals: in memory and from files, against sums by loops."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.features.timeline import Timeline, write_timeline

Rows = list[tuple[int, int, int, int]]

KEYS = (0, 1, 7, 2**63 - 1, 2**63, 2**64 - 1)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(KEYS), st.integers(0, 5), st.integers(0, 9), st.sampled_from([0, 1, 10**6])
    )
)


def table(rows: Rows) -> pl.DataFrame:
    schema = {"key": pl.UInt64, "time": pl.Int32, "x": pl.Int32, "y": pl.Int32}
    return pl.DataFrame(rows, schema=schema, orient="row")


def written(folder: Path, rows: Rows, bounds: list[int]) -> Timeline:
    """The timeline of files, its keys in parts between `bounds`."""
    edges = [0, *sorted(bounds), 2**64]
    parts = [table([row for row in rows if low <= row[0] < high]) for low, high in pairwise(edges)]
    sums = write_timeline(folder, parts, ["x", "y"])
    assert sums.tolist() == [sum(row[2] for row in rows), sum(row[3] for row in rows)]
    return Timeline.open(folder, 2)


def test_counts_are_those_of_the_rows():
    rows = [(7, 3, 1, 0), (1, 5, 2, 7), (7, 4, 10, 0), (1, 1, 4, 1), (7, 4, 5, 0)]
    timeline = Timeline.of(table(rows), ["x", "y"])
    groups = timeline.find(np.array([1, 7, 1, 2], np.uint64))
    assert groups.tolist() == [0, 1, 0, -1]
    until, since = np.array([5, 5, 6, 9]), np.array([[0, 2], [4, 0], [5, 0], [0, 0]])
    assert timeline.counts(groups, until, since).tolist() == [
        [4, 0, 1, 0],
        [15, 16, 0, 0],
        [2, 6, 7, 8],
        [0, 0, 0, 0],
    ]


@given(ROWS, st.lists(st.sampled_from(KEYS), max_size=3), st.integers(0, 6), st.integers(0, 6))
def test_files_and_memory_answer_as_loops_do(tmp_path_factory, rows, bounds, since, until):
    folder = tmp_path_factory.mktemp("timeline") / "items"
    keys = np.array([*KEYS, 3], np.uint64)
    expected = [
        [sum(r[c] for r in rows if r[0] == key and since <= r[1] < until) for c in (2, 3)]
        for key in keys.tolist()
    ]
    for timeline in (Timeline.of(table(rows), ["x", "y"]), written(folder, rows, bounds)):
        found = timeline.find(keys)
        assert (found >= 0).tolist() == [any(r[0] == key for r in rows) for key in keys.tolist()]
        got = timeline.counts(
            found, np.full(len(keys), until), np.full((len(keys), 1), since, np.int64)
        )
        assert got.tolist() == expected


def test_running_totals_may_pass_the_range_of_int32(tmp_path):
    rows = [(key, 0, 2**31 - 1, 0) for key in KEYS]
    timeline = written(tmp_path / "items", rows, [7])
    got = timeline.counts(
        timeline.find(np.array(KEYS, np.uint64)),
        np.ones(len(KEYS), np.int64),
        np.zeros((len(KEYS), 1), np.int64),
    )
    assert got.tolist() == [[2**31 - 1, 0]] * len(KEYS)


@pytest.mark.parametrize(("times", "checks"), [((0, 0), (5, 6)), ((0, 1), (5, 6))])
def test_two_ids_of_one_hash_are_an_error(tmp_path, times, checks):
    rows = table([(7, time, 1, 0) for time in times])
    checked = rows.with_columns(pl.Series("check", checks, pl.UInt64))
    with pytest.raises(DataError, match="same 64-bit hash"):
        write_timeline(tmp_path / "bad", [checked], ["x", "y"])
    same = rows.with_columns(pl.Series("check", [5, 5], pl.UInt64))
    assert write_timeline(tmp_path / "good", [same], ["x", "y"]).tolist() == [2, 0]
