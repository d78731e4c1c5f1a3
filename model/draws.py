"""Poisson draws of users that need no memory: each is a function of seed, user and replicate alone.

So a user is drawn alike in every chunk of the rows, on every machine and in every order, sums of
chunks can be added, and models share the draws without sharing anything else.

Kernels over replicates have the sample itself as replicate 0, in which every user counts once.

Numba's cache on disk does not see a change of `draw` in kernels compiled elsewhere: after editing
it, delete the folder `__pycache__` beside this file.
"""

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.core.errors import DataError
from cmdcm.features.hashing import UInt64s, hash_ids, mix
from cmdcm.features.lowlevel import u64

_GOLDEN = 0x9E3779B97F4A7C15
_DRAWS_PER_WORD = 4


def user_keys(user_ids: npt.ArrayLike, seed: int) -> UInt64s:
    """Returns the key of each user's draws.

    Args:
        user_ids: [rows] integers or strings, the ids of the event log; 7 and "7" are two users.
        seed: Seeds the draws.

    Returns:
        [rows]. Different integers have different keys; two of n strings share one with a
        probability below n^2 / 2^65.

    Raises:
        DataError: Ids that are neither int64 (or narrower) nor strings.
    """
    ids = pl.Series(np.asarray(user_ids))
    if ids.dtype != pl.String and (ids.dtype == pl.UInt64 or not ids.dtype.is_integer()):
        raise DataError(f"user ids should be int64 or strings. Received: {ids.dtype}")
    # Hashed a second time: examples are partitioned by the first hash.
    return hash_ids(pl.Series((hash_ids(ids) ^ np.uint64(mix(seed))).view(np.int64)))


@numba.njit(nogil=True, cache=True)
def words_for(replicates: int) -> UInt64s:  # pragma: no cover - compiled
    """Returns the working memory that `draw` needs."""
    return np.empty((replicates + _DRAWS_PER_WORD - 1) // _DRAWS_PER_WORD, np.uint64)


@numba.njit(nogil=True, cache=True)
def draw(
    key: int, words: UInt64s, times: npt.NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Draws a user: sets times[1 + r] to how often replicate r counts them, times[0] to one.

    Random bits are those of SplitMix64 (Steele, Lea and Flood 2014) seeded with the key, which can
    be computed from any place on. Each draw takes 16 of them and inverts the Poisson(1)
    distribution: it is at least k where they lie below 2^16 P(N >= k), rounded. The rounded
    thresholds sum to 2^16, so the mean is exactly one; the variance is 0.99997, and a count
    above 8 (one draw in 900,000) becomes 8.

    Args:
        key: From `user_keys`.
        words: From `words_for`, overwritten.
        times: [1 + replicates], overwritten.
    """
    for i in range(len(words)):
        words[i] = mix(key + u64(i) * u64(_GOLDEN))
    bits = words.view(np.uint16)  # little-endian machines, as in cmdcm.features.lowlevel
    times[0] = 1.0
    for r in range(len(times) - 1):
        u = bits[r]
        times[1 + r] = (
            (u < 41427)
            + (u < 17317)
            + (u < 5263)
            + (u < 1244)
            + (u < 240)
            + (u < 39)
            + (u < 5)
            + (u < 1)
        )
