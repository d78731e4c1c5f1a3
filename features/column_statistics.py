"""The statistics of one column: what is accumulated, and its proto of TensorFlow Metadata."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import statistics_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.encode import canonical
from cmdcm.features.sketches import Categories, Numbers
from cmdcm.features.spec import Feature

COUNTED_STRINGS = 1000
"""Distinct strings of a column up to which each is counted."""

TOP_VALUES = 20
"""Most frequent strings that are listed."""

DISTINCT, HASHES, COMPONENT, KNOWN = "distinct", "hashes", "component:", "in_vocabulary"
"""Custom statistics: distinct values; histogram of hashes; before a component's name, histogram of
its values; values in the vocabulary."""

_IDENTIFIERS = ("hash", "known", "identity", "vocabulary")
_TYPES = {
    "int64": statistics_pb2.FeatureNameStatistics.INT,
    "float32": statistics_pb2.FeatureNameStatistics.FLOAT,
    "string": statistics_pb2.FeatureNameStatistics.STRING,
}
_ARROW = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.large_binary()}


class ColumnStatistics:
    """Accumulates the statistics of one column.

    Attributes:
        feature: The column.
        missing: Rows without a value.
        categories: Values of an identifier or of strings.
    """

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.missing = 0
        self._lengths = Numbers()  # of the rows that have a value
        # The values; the lengths in bytes of strings. Those of a vector's rows that have its length
        # are in `_components`.
        self._numbers = Numbers()
        self._components = [Numbers() for _ in range(_components(feature))]
        self.categories = Categories()
        self._counts: Counter[bytes] | None = Counter()  # None: too many distinct strings
        self._known = 0  # strings in the vocabulary
        self._vocabulary = pa.array([v.encode() for v in feature.vocabulary], pa.large_binary())
        self._is_identifier = feature.encoding in _IDENTIFIERS

    def add(self, column: pa.Array) -> None:
        """Adds a column's values.

        Raises:
            DataError: It does not have the feature's type.
        """
        array = canonical(column, self.feature.name)
        if array is None:
            self.missing += len(column)
            return
        present = array.drop_null() if array.null_count else array
        self.missing += len(array) - len(present)
        if isinstance(present, pa.LargeListArray):
            lengths = pc.list_value_length(present).to_numpy()
            values = present.flatten()
        else:
            lengths = np.ones(len(present), np.int64)
            values = present
        self._lengths.add(lengths)
        if values.type == pa.int32():
            values = values.cast(pa.int64())
        if values.type != _ARROW[self.feature.dtype]:
            raise DataError(
                f"column {self.feature.name!r} holds {column.type}, "
                f"but its feature is {self.feature.dtype}"
            )
        if self.feature.dtype == "string":
            self._add_strings(values)
        else:
            self._add_numbers(values.to_numpy(), lengths)

    def _add_numbers(self, values: np.ndarray, lengths: np.ndarray) -> None:
        if self.feature.dtype == "int64" and self._is_identifier:
            self.categories.add_integers(values)
        if self._components:
            fits = lengths == len(self._components)
            if not fits.all():
                of_fitting = np.repeat(fits, lengths)
                self._numbers.add(values[~of_fitting])
                values = values[of_fitting]
            rows = values.reshape(-1, len(self._components))
            for numbers, component in zip(self._components, rows.T.copy(), strict=True):
                numbers.add(component)
        else:
            self._numbers.add(values)

    def _add_strings(self, values: pa.Array) -> None:
        self._numbers.add(pc.binary_length(values).to_numpy())
        if self.feature.vocabulary:
            self._known += pc.sum(pc.is_in(values, self._vocabulary), min_count=0).as_py()
        if self._counts is not None:
            found = pc.value_counts(values)
            distinct, counts = found.flatten()
            self._counts = _limited(
                self._counts
                + Counter(dict(zip(distinct.to_pylist(), counts.to_pylist(), strict=True)))
            )
        _, offsets, data = values.buffers()
        if len(values):
            self.categories.add_strings(
                np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8),
                np.frombuffer(offsets, np.int64, len(values) + 1, 8 * values.offset),
            )

    def merge(self, other: "ColumnStatistics") -> None:
        """Adds what the statistics of another part of the column have seen."""
        self.missing += other.missing
        self._known += other._known
        for mine, another in zip(self._all_numbers(), other._all_numbers(), strict=True):
            mine.merge(another)
        self.categories.merge(other.categories)
        if self._counts is None or other._counts is None:
            self._counts = None
        else:
            self._counts = _limited(self._counts + other._counts)

    def _all_numbers(self) -> list[Numbers]:
        return [self._lengths, self._numbers, *self._components]

    def state(self) -> dict[str, np.ndarray]:
        """Returns all there is to know as arrays, each [any]; equal statistics have equal ones."""
        integers, floats = zip(*(n.state() for n in self._all_numbers()), strict=True)
        registers, hashes = self.categories.state()
        counted = sorted((self._counts or {}).items())
        return {
            # -1: too many distinct strings
            "counts": np.array(
                [self.missing, self._known, -1 if self._counts is None else len(counted)], np.int64
            ),
            "integers": np.concatenate(integers),
            "floats": np.concatenate(floats),
            "registers": registers,
            "hashes": hashes,
            "string_lengths": np.array([len(value) for value, _ in counted], np.int64),
            "string_counts": np.array([count for _, count in counted], np.int64),
            "string_bytes": np.frombuffer(b"".join(value for value, _ in counted), np.uint8),
        }

    @classmethod
    def from_state(cls, feature: Feature, state: dict[str, np.ndarray]) -> "ColumnStatistics":
        """Returns the statistics with the given `state`."""
        column = cls(feature)
        column.missing, column._known, strings = state["counts"].tolist()
        count = len(column._all_numbers())
        column._lengths, column._numbers, *column._components = (
            Numbers.from_state(integers, floats)
            for integers, floats in zip(
                state["integers"].reshape(count, -1),
                state["floats"].reshape(count, -1),
                strict=True,
            )
        )
        column.categories = Categories.from_state(state["registers"], state["hashes"])
        text, stops = state["string_bytes"].tobytes(), np.cumsum(state["string_lengths"]).tolist()
        starts = [0, *stops][:-1]
        values = (text[start:stop] for start, stop in zip(starts, stops, strict=True))
        counts = state["string_counts"].tolist()
        column._counts = Counter(dict(zip(values, counts, strict=True))) if strings >= 0 else None
        return column

    def proto(self) -> statistics_pb2.FeatureNameStatistics:
        """Returns the statistics."""
        proto = statistics_pb2.FeatureNameStatistics(type=_TYPES[self.feature.dtype])
        proto.path.step.append(self.feature.name)
        if self.feature.dtype == "string":
            self._fill_strings(proto.string_stats)
            if self.feature.vocabulary:
                proto.custom_stats.add(name=KNOWN, num=self._known)
        else:
            self._fill_numbers(proto.num_stats)
            if self.feature.dtype == "int64" and self._is_identifier:
                proto.custom_stats.add(name=DISTINCT, num=round(self.categories.distinct()))
        if self.feature.dtype == "string" or self._is_identifier:
            hashes = proto.custom_stats.add(name=HASHES).histogram
            for place in np.flatnonzero(self.categories.histogram).tolist():
                hashes.buckets.add(
                    low_value=place,
                    high_value=place + 1,
                    sample_count=self.categories.histogram[place],
                )
        for number, numbers in enumerate(self._components):
            name = self.feature.components[number] if self.feature.components else str(number)
            _fill_histogram(proto.custom_stats.add(name=COMPONENT + name).histogram, numbers)
        return proto

    def _fill_common(self, common: statistics_pb2.CommonStatistics) -> None:
        common.num_missing = self.missing
        common.num_non_missing = self._lengths.count
        if self._lengths.count:
            common.min_num_values = int(self._lengths.low)
            common.max_num_values = int(self._lengths.high)
            common.avg_num_values = self._lengths.mean
            common.tot_num_values = round(self._lengths.mean * self._lengths.count)
        _fill_histogram(common.num_values_histogram, self._lengths)

    def _fill_numbers(self, proto: statistics_pb2.NumericStatistics) -> None:
        numbers = Numbers()
        for part in (self._numbers, *self._components):
            numbers.merge(part)
        self._fill_common(proto.common_stats)
        if numbers.count:
            proto.mean, proto.std_dev = numbers.mean, numbers.deviation
            proto.min, proto.median, proto.max = numbers.low, numbers.median(), numbers.high
        proto.num_zeros = numbers.zeros
        _fill_histogram(proto.histograms.add(), numbers)

    def _fill_strings(self, proto: statistics_pb2.StringStatistics) -> None:
        self._fill_common(proto.common_stats)
        proto.avg_length = self._numbers.mean
        if self._counts is None:
            proto.unique = round(self.categories.distinct())
            return
        proto.unique = len(self._counts)
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        for rank, (value, count) in enumerate(ranked):
            label = value.decode("utf-8", "backslashreplace")
            if rank < TOP_VALUES:
                proto.top_values.add(value=label, frequency=count)
            proto.rank_histogram.buckets.add(
                low_rank=rank, high_rank=rank, label=label, sample_count=count
            )


def _components(feature: Feature) -> int:
    is_numbers = feature.shape == "vector" and feature.dtype != "string"
    return feature.length if is_numbers else 0


def _limited(counts: Counter[bytes]) -> Counter[bytes] | None:
    return counts if len(counts) <= COUNTED_STRINGS else None


def _fill_histogram(proto: statistics_pb2.Histogram, numbers: Numbers) -> None:
    proto.type = statistics_pb2.Histogram.STANDARD
    proto.num_nan, proto.num_undefined = numbers.nans, numbers.infinities
    for low, high, count in numbers.bins():
        proto.buckets.add(low_value=low, high_value=high, sample_count=count)
