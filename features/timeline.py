"""Running totals of groups over a discrete time, in memory or in files that are mapped.

A timeline holds, for groups such as items and times such as hours, the sums of some values. It
answers how much there was in a half-open span of time by a binary search and a difference. As
files it is read through the page cache, so that its size is bounded by the disk and not by memory,
and all workers of a machine share it.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from cmdcm.core.errors import DataError
from cmdcm.features.hashing import UInt64s
from cmdcm.features.windows import Int32s, Int64s, window_counts

_PIECES = (
    ("keys", np.uint64),
    ("starts", np.int64),
    ("times", np.int32),
    ("prefix", np.int32),
)


@dataclass(frozen=True)
class Timeline:
    """Running totals of groups over time.

    Attributes:
        keys: [groups], ascending hashes of the groups' ids (`hashing.hash_ids`).
        starts: [groups + 1], the entries of group g are `starts[g]:starts[g + 1]`.
        times: [entries], ascending in each group.
        prefix: [entries + 1, values], running totals over all entries (modulo 2^32, which
            differences do not see).
    """

    keys: UInt64s
    starts: Int64s
    times: Int32s
    prefix: Int32s

    @classmethod
    def of(cls, totals: pl.DataFrame, values: Sequence[str]) -> "Timeline":
        """Builds a timeline in memory.

        Args:
            totals: Columns `key`, `time` and `values`; rows of one (key, time) are summed.
            values: Names of the values.
        """
        keys, counts, times, sums = _summed(totals, values)
        starts = np.concatenate([[0], np.cumsum(counts)])
        prefix = np.zeros((len(times) + 1, len(values)), np.int32)
        np.cumsum(sums, axis=0, out=prefix[1:])
        return cls(keys, starts, times, prefix)

    @classmethod
    def open(cls, folder: Path, values: int) -> "Timeline":
        """Maps the files that `write_timeline` wrote; `values` is the number of values."""

        def piece(name: str, dtype: type) -> npt.NDArray[Any]:
            if (folder / name).stat().st_size == 0:  # of which nothing can be mapped
                return np.empty(0, dtype)
            return np.memmap(folder / name, dtype, "r")

        keys, starts, times, prefix = (piece(name, dtype) for name, dtype in _PIECES)
        return cls(keys, starts, times, prefix.reshape(-1, values))

    def find(self, keys: UInt64s) -> Int64s:
        """Returns [keys]: the group of each key, -1 for one that is not there."""
        groups = np.empty(len(keys), np.int64)
        _find(self.keys, keys, groups)
        return groups

    def counts(self, groups: Int64s, until: Int64s, since: Int64s) -> Int32s:
        """Returns [queries, values * windows]; see `windows.window_counts`."""
        return window_counts(self.times, self.prefix, self.starts, groups, until, since)


def write_timeline(folder: Path, parts: Iterable[pl.DataFrame], values: Sequence[str]) -> Int64s:
    """Writes a timeline of totals that come in parts, one part at a time in memory.

    Args:
        folder: Directory to make.
        parts: Tables as `Timeline.of` takes them; each has the keys between those of its
            neighbours. A column `check` (`hashing.hash_ids` with `other`) is compared.
        values: Names of the values.

    Returns:
        [values], the sums over everything.

    Raises:
        DataError: Two ids have the same hash.
    """
    folder.mkdir(parents=True)
    total = np.zeros(len(values), np.int32)
    overall = np.zeros(len(values), np.int64)
    end = 0
    with ExitStack() as stack:
        files = {n: stack.enter_context((folder / n).open("wb")) for n, _ in _PIECES}
        files["starts"].write(np.zeros(1, np.int64).data)
        files["prefix"].write(total.data)
        for part in parts:
            keys, counts, times, sums = _summed(part, values)
            if not len(keys):
                continue
            starts = end + np.cumsum(counts)
            prefix = total + np.cumsum(sums, axis=0, dtype=np.int32)
            for name, array in (
                ("keys", keys),
                ("starts", starts),
                ("times", times),
                ("prefix", prefix),
            ):
                files[name].write(np.ascontiguousarray(array).data)
            total, end = prefix[-1], int(starts[-1])
            overall += sums.sum(axis=0, dtype=np.int64)
    return overall


def _summed(
    totals: pl.DataFrame, values: Sequence[str]
) -> tuple[UInt64s, Int64s, Int32s, npt.NDArray[np.int32]]:
    """Returns the distinct keys, how many times each has, the times, and [times, values]."""
    checked = [pl.col("check").min().alias("least"), pl.col("check").max().alias("most")]
    summed = (
        totals.lazy()
        .group_by("key", "time")
        .agg(
            pl.col(list(values)).sum().cast(pl.Int32),
            *(checked if "check" in totals.columns else []),
        )
        .sort("key", "time")
        .collect()
    )
    keys = summed["key"].to_numpy()
    firsts = np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint64(1)))
    if "check" in totals.columns:
        same = np.diff(keys) == 0
        check = summed["least"].to_numpy()
        if (check != summed["most"].to_numpy()).any() or (check[1:] != check[:-1])[same].any():
            raise DataError(
                "two identifiers of the log have the same 64-bit hash, and their counters cannot "
                "be told apart; import the log with integer identifiers"
            )
    return (
        keys[firsts],
        np.diff(firsts, append=len(keys)),
        summed["time"].to_numpy(),
        summed.select(values).to_numpy().astype(np.int32, copy=False).reshape(-1, len(values)),
    )


@njit(nogil=True, cache=True)
def _find(known: UInt64s, keys: UInt64s, groups: Int64s) -> None:  # pragma: no cover
    for i in range(keys.size):
        low, high = 0, known.size
        while low < high:
            middle = (low + high) // 2
            if known[middle] < keys[i]:
                low = middle + 1
            else:
                high = middle
        groups[i] = low if low < known.size and known[low] == keys[i] else -1
