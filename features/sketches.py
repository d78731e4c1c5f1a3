"""Accumulators of constant size that can be merged: moments with a histogram, categories.

Both are independent of the order of their input and of how it is split (moments up to rounding).
"""

import math
from collections.abc import Iterator

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import leading_zeros

from cmdcm.features.hashing import FNV_BASIS, hash_bytes, mix
from cmdcm.features.lowlevel import i64, u64

# Histogram bins are fixed: one of zero and magnitudes below 2^-20, and for each sign four bins an
# octave up to 2^64; integers up to 7 have bins of their own. The exponent and the upper two bits of
# the mantissa of a float64 number the bins.
_PER_OCTAVE = 4
_LOWEST, _HIGHEST = -20, 64
_SIDE = (_HIGHEST - _LOWEST) * _PER_OCTAVE
_FIRST = (1023 + _LOWEST) * _PER_OCTAVE
_MAGNITUDE = 0x7FFFFFFFFFFFFFFF


@njit(nogil=True, cache=True)
def _accumulate(values: np.ndarray, histogram: np.ndarray) -> tuple:
    """Returns count, zeros, NaNs, infinities, min, max, mean and M2; adds to the histogram."""
    count, zeros, nans, infinities = 0, 0, 0, 0
    low, high = np.inf, -np.inf
    origin, total, squares = 0.0, 0.0, 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        if not np.isfinite(value):
            nans += np.isnan(value)
            infinities += np.isinf(value)
            continue
        if count == 0:
            origin = value
        count += 1
        if value < low:
            low = value
        if value > high:
            high = value
        difference = value - origin
        total += difference
        squares += difference * difference
        zeros += value == 0
        place = (i64(value.view(np.int64) & _MAGNITUDE) >> 50) - _FIRST + 1
        place = min(max(place, 0), _SIDE)
        histogram[_SIDE + place if value >= 0 else _SIDE - place] += 1
    mean, m2 = 0.0, 0.0
    if count:
        mean = origin + total / count
        m2 = max(squares - total * total / count, 0.0)
    return count, zeros, nans, infinities, low, high, mean, m2


class Numbers:
    """Moments and a histogram of numbers.

    Attributes:
        count: Finite values; the statistics below are theirs.
        zeros: Values equal to zero.
        nans: Values that are not a number.
        infinities: Values that are infinite.
        low: Smallest value; infinity when there is none.
        high: Largest value; minus infinity when there is none.
        mean: Mean.

    Example:
        >>> numbers = Numbers()
        >>> numbers.add(np.array([0, 1, 1, 5]))
        >>> numbers.mean, round(numbers.deviation, 3), list(numbers.bins())
        (1.75, 1.92, [(0.0, 0.0, 1), (1.0, 1.25, 2), (5.0, 6.0, 1)])
    """

    def __init__(self) -> None:
        self.count = self.zeros = self.nans = self.infinities = 0
        self.low, self.high = math.inf, -math.inf
        self.mean = self._m2 = 0.0
        self._histogram = np.zeros(2 * _SIDE + 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Adds int64 or float32 values, [any]."""
        self._merge(*_accumulate(values, self._histogram))

    def merge(self, other: "Numbers") -> None:
        """Adds what another accumulator has seen."""
        self._histogram += other._histogram
        self._merge(
            other.count,
            other.zeros,
            other.nans,
            other.infinities,
            other.low,
            other.high,
            other.mean,
            other._m2,
        )

    def _merge(
        self,
        count: int,
        zeros: int,
        nans: int,
        infinities: int,
        low: float,
        high: float,
        mean: float,
        m2: float,
    ) -> None:
        both = self.count + count
        if count:  # Chan, Golub and LeVeque 1979
            difference = mean - self.mean
            self._m2 += m2 + difference**2 * self.count * count / both
            self.mean += difference * count / both
        self.count = both
        self.zeros += zeros
        self.nans += nans
        self.infinities += infinities
        self.low, self.high = min(self.low, low), max(self.high, high)

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all there is to know: int64 [4 + bins] and float64 [4]."""
        counts = [self.count, self.zeros, self.nans, self.infinities]
        return (
            np.concatenate([np.array(counts, np.int64), self._histogram]),
            np.array([self.low, self.high, self.mean, self._m2]),
        )

    @classmethod
    def from_state(cls, integers: np.ndarray, floats: np.ndarray) -> "Numbers":
        """Returns the accumulator with the given `state`."""
        numbers = cls()
        numbers.count, numbers.zeros, numbers.nans, numbers.infinities = integers[:4].tolist()
        numbers._histogram += integers[4:]
        numbers.low, numbers.high, numbers.mean, numbers._m2 = floats.tolist()
        return numbers

    @property
    def deviation(self) -> float:
        """The standard deviation of the values, as a whole population."""
        return math.sqrt(self._m2 / self.count) if self.count else 0.0

    def bins(self) -> Iterator[tuple[float, float, int]]:
        """Yields (low, high, count) of the histogram's bins that are not empty, ascending."""
        for place in np.flatnonzero(self._histogram).tolist():
            index = abs(place - _SIDE) - 1
            low, high = (_bound(index), _bound(index + 1)) if index >= 0 else (0.0, 0.0)
            if index == _SIDE - 1:
                high = max(high, abs(self.low), abs(self.high))
            if place < _SIDE:
                low, high = -high, -low
            yield low, high, int(self._histogram[place])

    def median(self) -> float:
        """Returns the median, interpolated in its bin of the histogram."""
        left = self.count / 2
        for low, high, count in self.bins():
            if left <= count:
                value = low + (high - low) * left / count
                return min(max(value, self.low), self.high)
            left -= count
        return 0.0


def _bound(index: int) -> float:
    octave, quarter = divmod(index, _PER_OCTAVE)
    return math.ldexp(1 + quarter / _PER_OCTAVE, octave + _LOWEST)


_BITS = 12  # of a hash that choose a register: 4096 registers, a standard error of 1.6 %
_REGISTERS = 1 << _BITS
_RANKS = 64 - _BITS

HASH_BINS = 256
"""Bins of the histogram of hashes: its lowest eight bits."""


@njit(nogil=True, cache=True)
def _observe(registers: np.ndarray, histogram: np.ndarray, hashed: int) -> None:
    register = hashed >> u64(_RANKS)
    rank = leading_zeros((hashed << u64(_BITS)) | u64(1 << (_BITS - 1))) + u64(1)
    registers[register] = max(registers[register], np.uint8(rank))
    histogram[hashed & u64(HASH_BINS - 1)] += 1


@njit(nogil=True, cache=True)
def _observe_integers(registers: np.ndarray, histogram: np.ndarray, values: np.ndarray) -> None:
    for i in range(values.size):
        _observe(registers, histogram, mix(values[i]))


@njit(nogil=True, cache=True)
def _observe_strings(
    registers: np.ndarray, histogram: np.ndarray, data: np.ndarray, offsets: np.ndarray
) -> None:
    for i in range(offsets.size - 1):
        _observe(registers, histogram, hash_bytes(data, offsets[i], offsets[i + 1], FNV_BASIS))


class Categories:
    """Estimates the number of distinct values, and counts the values by a hash.

    The number is HyperLogLog's, with a standard error of 1.6 %, by Ertl's estimator (arXiv
    1702.01284, algorithm 6), which needs no correction tables.

    Attributes:
        histogram: Values in each of `HASH_BINS` bins that their hash chooses, int64.

    Example:
        >>> categories = Categories()
        >>> categories.add_integers(np.array([4, 4, 7]))
        >>> round(categories.distinct()), sorted(categories.histogram.tolist())[-3:]
        (2, [0, 1, 2])
    """

    def __init__(self) -> None:
        self._registers = np.zeros(_REGISTERS, np.uint8)
        self.histogram = np.zeros(HASH_BINS, np.int64)

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all there is to know: uint8 [registers] and int64 [bins]."""
        return self._registers, self.histogram

    @classmethod
    def from_state(cls, registers: np.ndarray, histogram: np.ndarray) -> "Categories":
        """Returns the sketch with the given `state`."""
        categories = cls()
        categories._registers[:] = registers
        categories.histogram[:] = histogram
        return categories

    def add_integers(self, values: np.ndarray) -> None:
        """Adds int64 values, [any]."""
        _observe_integers(self._registers, self.histogram, values)

    def add_strings(self, data: np.ndarray, offsets: np.ndarray) -> None:
        """Adds strings: `data[offsets[i]:offsets[i + 1]]` of uint8."""
        _observe_strings(self._registers, self.histogram, data, offsets)

    def merge(self, other: "Categories") -> None:
        """Adds what another sketch has seen."""
        np.maximum(self._registers, other._registers, out=self._registers)
        self.histogram += other.histogram

    def distinct(self) -> float:
        """Returns the estimated number of distinct values."""
        counts = np.bincount(self._registers, minlength=_RANKS + 2) / _REGISTERS
        z = _tau(1 - counts[_RANKS + 1])
        for rank in range(_RANKS, 0, -1):
            z = (z + counts[rank]) / 2
        z += _sigma(counts[0])
        return _REGISTERS / (2 * math.log(2) * z) if z < math.inf else 0.0


def _sigma(x: float) -> float:
    """Returns x + sum over k >= 1 of x^(2^k) 2^(k-1)."""
    if x == 1:
        return math.inf
    power, weight, total, before = x, 1.0, x, -1.0
    while total != before:
        before = total
        power *= power
        total += power * weight
        weight *= 2
    return total


def _tau(x: float) -> float:
    """Returns (1 - x - sum over k >= 1 of (1 - x^(2^-k))^2 2^-k) / 3."""
    if x in (0, 1):
        return 0.0
    weight, total, before = 1.0, 1 - x, -1.0
    while total != before:
        before = total
        x = math.sqrt(x)
        weight /= 2
        total -= (1 - x) ** 2 * weight
    return total / 3
