"""Hashes of identifiers, the same on every machine and in every run.

They choose the partition of a user, and key what is summed over all users.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from numba import njit

from cmdcm.features.lowlevel import u64

UInt64s = npt.NDArray[np.uint64]


@njit(nogil=True, cache=True)
def mix(value: int) -> int:
    """The finalizer of splitmix64, a bijection of 64-bit integers."""
    x = u64(value) + u64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> u64(30))) * u64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> u64(27))) * u64(0x94D049BB133111EB)
    return x ^ (x >> u64(31))


@njit(nogil=True, cache=True)
def hash_bytes(data: np.ndarray, start: int, stop: int, basis: int) -> int:
    """FNV-1a of `data[start:stop]`, then mixed."""
    hashed = u64(basis)
    for i in range(start, stop):
        hashed = (hashed ^ u64(data[i])) * u64(0x100000001B3)
    return mix(hashed)


FNV_BASIS = u64(0xCBF29CE484222325)
"""Where FNV-1a starts."""

_OTHER_BASIS = u64(0x6C62272E07BB0142)


@njit(nogil=True, cache=True)
def _mix_all(values: np.ndarray, result: np.ndarray) -> None:
    for i in range(values.size):
        result[i] = mix(values[i])


@njit(nogil=True, cache=True)
def _hash_all(data: np.ndarray, offsets: np.ndarray, basis: int, result: np.ndarray) -> None:
    for i in range(result.size):
        result[i] = hash_bytes(data, offsets[i], offsets[i + 1], basis)


def hash_ids(ids: pl.Series | pa.Array, *, other: bool = False) -> UInt64s:
    """Hashes identifiers.

    Args:
        ids: [ids] of int64 or string, without nulls.
        other: Take a second hash, independent of the first for strings.

    Returns:
        [ids]. Different integers have different hashes; different strings have with a probability
        of n^2 / 2^65 for n of them.

    Example:
        >>> [hex(h) for h in hash_ids(pl.Series([0, 1])).tolist()]
        ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    array = ids.to_arrow() if isinstance(ids, pl.Series) else ids
    result = np.empty(len(array), np.uint64)
    if pa.types.is_integer(array.type):
        _mix_all(array.cast(pa.int64()).to_numpy(), result)
        return result
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    if len(array):
        _hash_all(
            np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8),
            np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset),
            _OTHER_BASIS if other else FNV_BASIS,
            result,
        )
    return result


def partition_of(hashes: UInt64s, partitions: int) -> npt.NDArray[np.int64]:
    """Returns [ids]: the partition of each hash, ascending with the hash.

    Example:
        >>> partition_of(np.array([0, 2**63, 2**64 - 1], np.uint64), 3).tolist()
        [0, 1, 2]
    """
    # By the upper 32 bits, so that sorting by hash within partitions sorts the whole.
    upper = (hashes >> np.uint64(32)).astype(np.int64)
    return (upper * partitions) >> 32
