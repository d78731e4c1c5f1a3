"""Distances between two distributions of a feature, on bins that do not depend on the data.

L-infinity, for categories:       max over k of |p_k - q_k|
Jensen-Shannon, for numbers:      (KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2, to base 2

Both are symmetric and in [0, 1]; 0 for equal distributions alone. Source: Lin, Divergence measures
based on the Shannon entropy, IEEE Transactions on Information Theory 37 (1991).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cmdcm.features.column_view import ColumnView, Histogram
from cmdcm.features.sketches import Categories, Numbers
from cmdcm.features.spec import Feature, FeatureSpec

CATEGORICAL = ("hash", "vocabulary", "identity")
"""Encodings of categories; strings are categories too."""


@dataclass(frozen=True)
class Pair:
    """One distribution of a feature in two data sets.

    Attributes:
        name: The feature, or `NAME[PART]` for a vector's component or a sequence's length.
        measure: The distance that suits it.
        first: Counts by bin in one data set.
        second: In the other.
    """

    name: str
    measure: Literal["linf", "js"]
    first: Histogram
    second: Histogram

    @property
    def count(self) -> float:
        """Values in the data set that has fewer."""
        return min(sum(self.first.values()), sum(self.second.values()))

    def distance(self) -> float:
        """Returns the distance by `measure`; both sides need a value."""
        return (l_infinity if self.measure == "linf" else jensen_shannon)(self.first, self.second)


def l_infinity(first: Histogram, second: Histogram) -> float:
    """Returns the L-infinity distance of the shares.

    Example:
        >>> l_infinity({"a": 1, "b": 1}, {"a": 10, "b": 5, "c": 5})
        0.25
    """
    p, q = _shares(first, second)
    return float(np.max(np.abs(p - q)))


def jensen_shannon(first: Histogram, second: Histogram) -> float:
    """Returns the Jensen-Shannon divergence of the shares, to base 2.

    Example:
        >>> jensen_shannon({1: 3}, {1: 9}), jensen_shannon({1: 3}, {2: 3})
        (0.0, 1.0)
    """
    p, q = _shares(first, second)
    m = (p + q) / 2
    total = 0.0
    for share in (p, q):
        held = share > 0
        total += float(np.sum(share[held] * np.log2(share[held] / m[held])))
    return min(max(total / 2, 0.0), 1.0)


def _shares(first: Histogram, second: Histogram) -> tuple[np.ndarray, np.ndarray]:
    bins = list({**first, **second})
    p, q = (np.array([side.get(b, 0) for b in bins], np.float64) for side in (first, second))
    return p / p.sum(), q / q.sum()


def pairs(
    feature: Feature, first: ColumnView, second: ColumnView, *, lengths: bool = True
) -> Iterator[Pair]:
    """Yields the distributions of a feature in two data sets.

    Values are those that the model reads: a missing scalar or vector counts as its default.

    Args:
        feature: The feature.
        first: Its statistics in one data set.
        second: In the other.
        lengths: Whether the lengths of a sequence are one of its distributions.
    """
    sides = (first, second)
    if feature.shape == "sequence" and lengths:
        yield Pair(f"{feature.name}[length]", "js", first.length_bins, second.length_bins)
    if feature.dtype == "string" or feature.encoding in CATEGORICAL:
        if first.strings is not None and second.strings is not None:
            p, q = (_filled(s.strings or {}, s, feature, str(feature.default)) for s in sides)
            yield Pair(feature.name, "linf", p, q)
        elif first.hashes is not None and second.hashes is not None:
            place = _hash_bin(feature)
            p, q = (_filled(s.hashes or {}, s, feature, place) for s in sides)
            yield Pair(feature.name, "linf", p, q)
    elif feature.shape == "vector":
        for name in first.components.keys() & second.components.keys():
            p, q = (_filled(s.components[name], s, feature, _number_bin(feature)) for s in sides)
            yield Pair(f"{feature.name}[{name}]", "js", p, q)
    else:
        p, q = (_filled(s.numbers, s, feature, _number_bin(feature)) for s in sides)
        yield Pair(feature.name, "js", p, q)


def length_columns(spec: FeatureSpec) -> set[str]:
    """Returns the sequences whose lengths say all: one column of each that are aligned."""
    alone = {f.name for f in spec.inputs if f.shape == "sequence" and not f.sequence}
    return alone | {columns[0].name for columns in spec.sequences().values()}


def _filled(
    bins: Histogram, side: ColumnView, feature: Feature, default_bin: str | float
) -> Histogram:
    if feature.shape == "sequence" or not side.missing:
        return bins
    return {**bins, default_bin: bins.get(default_bin, 0) + side.missing}


def _number_bin(feature: Feature) -> float:
    numbers = Numbers()
    numbers.add(np.array([feature.default], np.dtype(feature.dtype)))
    low, high, _ = next(numbers.bins())
    return low if high > 0 else high


def _hash_bin(feature: Feature) -> float:
    categories = Categories()
    if feature.dtype == "string":
        data = np.frombuffer(str(feature.default).encode(), np.uint8)
        categories.add_strings(data, np.array([0, data.size], np.int64))
    else:
        categories.add_integers(np.array([feature.default], np.int64))
    return float(np.argmax(categories.histogram))
