"""Hashes of identifiers against plain Python."""

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.hashing import hash_ids, partition_of

MASK = 2**64 - 1


def mixed(value: int) -> int:
    x = (value + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def of_string(text: str, basis: int) -> int:
    hashed = basis
    for byte in text.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & MASK
    return mixed(hashed)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_are_mixed(ids):
    assert hash_ids(pl.Series(ids, dtype=pl.Int64)).tolist() == [mixed(i & MASK) for i in ids]


@given(st.lists(st.text(max_size=20)), st.integers(0, 3))
def test_strings_are_hashed_twice_independently(ids, start):
    array = pa.array(ids, pa.string()).slice(min(start, len(ids)))
    some = array.to_pylist()
    assert hash_ids(array).tolist() == [of_string(i, 0xCBF29CE484222325) for i in some]
    other = hash_ids(array, other=True).tolist()
    assert other == [of_string(i, 0x6C62272E07BB0142) for i in some]
    assert hash_ids(pl.Series(some, dtype=pl.String)).tolist() == hash_ids(array).tolist()


@given(st.lists(st.integers(0, MASK), min_size=1), st.integers(1, 5000))
def test_partitions_ascend_with_the_hash_and_stay_in_range(hashes, partitions):
    ascending = np.array(sorted(hashes), np.uint64)
    numbers = partition_of(ascending, partitions)
    assert numbers.min() >= 0
    assert numbers.max() < partitions
    assert (np.diff(numbers) >= 0).all()


def test_consecutive_users_spread_over_the_partitions():
    numbers = partition_of(hash_ids(pl.Series(range(100_000))), 10)
    assert np.bincount(numbers, minlength=10).min() > 9_500
