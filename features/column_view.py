"""A column's statistics as checks read them, whatever the column's type."""

from collections.abc import Mapping
from functools import cached_property

from tensorflow_metadata.proto.v0 import statistics_pb2

from cmdcm.core.errors import DataError

Histogram = Mapping[str | float, float]
"""Counts by bin: a string, or the bin's edge that is nearer to zero."""

_TYPES = {
    statistics_pb2.FeatureNameStatistics.INT: "int64",
    statistics_pb2.FeatureNameStatistics.FLOAT: "float32",
    statistics_pb2.FeatureNameStatistics.STRING: "string",
    statistics_pb2.FeatureNameStatistics.BYTES: "string",
}


class ColumnView:
    """What statistics.pbtxt holds of one column.

    Attributes:
        dtype: `int64`, `float32` or `string`.
        missing: Rows without a value.
        present: Rows with a value, an empty list included.
    """

    def __init__(self, proto: statistics_pb2.FeatureNameStatistics) -> None:
        self._proto = proto
        self._is_string = proto.HasField("string_stats")
        common = (proto.string_stats if self._is_string else proto.num_stats).common_stats
        self.dtype = _TYPES.get(proto.type, "struct")
        self.missing, self.present = int(common.num_missing), int(common.num_non_missing)
        self._common = common

    @property
    def null_rate(self) -> float:
        """Share of the rows without a value; 0 without rows."""
        rows = self.missing + self.present
        return self.missing / rows if rows else 0.0

    @property
    def lengths(self) -> tuple[int, int] | None:
        """Least and most values of a row that has some; None when no row has."""
        if not self.present:
            return None
        return int(self._common.min_num_values), int(self._common.max_num_values)

    @property
    def range(self) -> tuple[float, float] | None:
        """Least and largest finite number; None for strings and without a value."""
        stats = self._proto.num_stats
        return (stats.min, stats.max) if not self._is_string and self.numbers else None

    @property
    def mean(self) -> float:
        """Mean of the finite numbers; 0 without."""
        return float(self._proto.num_stats.mean)

    @property
    def zeros(self) -> int:
        """Values that are 0."""
        return int(self._proto.num_stats.num_zeros)

    @property
    def not_finite(self) -> int:
        """Values that are NaN or infinite."""
        return int(sum(h.num_nan + h.num_undefined for h in self._proto.num_stats.histograms))

    @property
    def count(self) -> int:
        """Values, lists counted by their elements."""
        return int(self._common.tot_num_values)

    @property
    def distinct(self) -> int | None:
        """Distinct values of a string or an identifier, estimated; None when not counted."""
        if self._is_string:
            return int(self._proto.string_stats.unique)
        return int(self._custom["distinct"].num) if "distinct" in self._custom else None

    @property
    def in_vocabulary(self) -> int | None:
        """Values in the vocabulary of the feature spec; None when it has none."""
        return int(self._custom["in_vocabulary"].num) if "in_vocabulary" in self._custom else None

    @cached_property
    def strings(self) -> Histogram | None:
        """How often each string occurs, the most frequent first; None when too many differ."""
        if not self._is_string:
            return None
        ranked = self._proto.string_stats.rank_histogram.buckets
        if self.count and not ranked:
            return None
        return {bucket.label: bucket.sample_count for bucket in ranked}

    @cached_property
    def hashes(self) -> Histogram | None:
        """Values by the bin of their hash; None when not counted."""
        return _bins(self._custom["hashes"].histogram) if "hashes" in self._custom else None

    @cached_property
    def numbers(self) -> Histogram:
        """Finite numbers by bin."""
        histograms = self._proto.num_stats.histograms
        return _bins(histograms[0]) if histograms else {}

    @cached_property
    def length_bins(self) -> Histogram:
        """Rows that have a value, by the bin of their length."""
        return _bins(self._common.num_values_histogram)

    @cached_property
    def components(self) -> dict[str, Histogram]:
        """Finite numbers of each component of a vector, by bin."""
        return {
            name.removeprefix("component:"): _bins(custom.histogram)
            for name, custom in self._custom.items()
            if name.startswith("component:")
        }

    @cached_property
    def _custom(self) -> dict[str, statistics_pb2.CustomStatistic]:
        return {custom.name: custom for custom in self._proto.custom_stats}


def column_views(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
) -> dict[str, ColumnView]:
    """Returns the columns of one data set's statistics by name.

    Raises:
        DataError: There is not exactly one data set.
    """
    if len(statistics.datasets) != 1:
        raise DataError(
            f"statistics should be of one data set. Received: {len(statistics.datasets)}"
        )
    return {
        proto.path.step[0] if proto.path.step else proto.name: ColumnView(proto)
        for proto in statistics.datasets[0].features
    }


def _bins(histogram: statistics_pb2.Histogram) -> dict[str | float, float]:
    # The outermost bins reach to the extremes of their data: the other edge names a bin.
    return {
        bucket.low_value if bucket.high_value > 0 else bucket.high_value: bucket.sample_count
        for bucket in histogram.buckets
    }
