"""Statistics of examples in constant memory, as TensorFlow Metadata's protos.

A builder takes tables one by one, and builders of partitions merge; the result does not depend on
the order or the partition (means and deviations up to rounding). Every column of the spec has

- rows with and without a value (a null is no value, an empty list is one of length 0);
- list lengths: least, most, mean, sum, histogram;
- numbers: mean, deviation, zeros, min, median, max and a histogram of fixed bins, four an octave;
- strings: mean length, distinct values, and how often each occurs while there are few of them;
- identifiers of type int64: distinct values, as the custom statistic `distinct`.

Numbers of distinct values are estimates with a standard error of 1.6 %, but exact for strings
while each is counted.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import statistics_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.encode import canonical
from cmdcm.features.sketches import Distinct, Numbers
from cmdcm.features.spec import Feature, FeatureSpec

COUNTED_STRINGS = 1000
"""Distinct strings of a column up to which each is counted."""

_TOP_VALUES = 20
_IDENTIFIERS = ("hash", "identity", "vocabulary")
_TYPES = {
    "int64": statistics_pb2.FeatureNameStatistics.INT,
    "float32": statistics_pb2.FeatureNameStatistics.FLOAT,
    "string": statistics_pb2.FeatureNameStatistics.STRING,
}
_ARROW = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.large_binary()}


class StatisticsBuilder:
    """Accumulates the statistics of tables of examples.

    Example:
        >>> price = Feature(name="price", dtype="float32", side="item")
        >>> builder = StatisticsBuilder(FeatureSpec(features=(price,)))
        >>> builder.add(pa.table({"price": pa.array([1.0, 3.0, None], pa.float32())}))
        >>> statistics = builder.proto().datasets[0].features[0].num_stats
        >>> statistics.mean, statistics.common_stats.num_missing
        (2.0, 1)
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._rows = 0
        self._columns = [_Column(feature) for feature in spec.features]

    def add(self, table: pa.Table) -> None:
        """Adds the rows of a table; a column of the spec that it lacks is missing in each.

        Raises:
            DataError: A column does not have the spec's type.
        """
        self._rows += table.num_rows
        for column in self._columns:
            name = column.feature.name
            if name not in table.column_names:
                column.missing += table.num_rows
                continue
            for chunk in table.column(name).chunks:
                column.add(chunk)

    def merge(self, other: "StatisticsBuilder") -> None:
        """Adds what another builder of the same spec has seen."""
        if other._spec != self._spec:
            raise ValueError("statistics of different specs do not merge")
        self._rows += other._rows
        for column, another in zip(self._columns, other._columns, strict=True):
            column.merge(another)

    def proto(self) -> statistics_pb2.DatasetFeatureStatisticsList:
        """Returns the statistics of one data set."""
        result = statistics_pb2.DatasetFeatureStatisticsList()
        dataset = result.datasets.add(num_examples=self._rows)
        dataset.features.extend(column.proto() for column in self._columns)
        return result

    def write(self, path: Path) -> None:
        """Writes the statistics as a text proto."""
        path.write_text(text_format.MessageToString(self.proto(), as_utf8=True), "utf-8")


def read_statistics(path: Path) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Reads the text proto that `StatisticsBuilder.write` wrote.

    Raises:
        DataError: The file is missing or holds no statistics.
    """
    try:
        return text_format.Parse(
            Path(path).read_text("utf-8"), statistics_pb2.DatasetFeatureStatisticsList()
        )
    except OSError as error:
        raise DataError(f"cannot read statistics {path}: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise DataError(f"{path} holds no statistics: {error}") from error


class _Column:
    """The statistics of one column."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.missing = 0
        self.lengths = Numbers()  # of the rows that have a value
        self.numbers = Numbers()  # the values; the lengths in bytes of strings
        self.distinct = Distinct()
        self.counts: Counter[bytes] | None = Counter()  # None: too many distinct strings
        self.is_identifier = feature.encoding in _IDENTIFIERS

    def add(self, column: pa.Array) -> None:
        array = canonical(column, self.feature.name)
        if array is None:
            self.missing += len(column)
            return
        present = array.drop_null() if array.null_count else array
        self.missing += len(array) - len(present)
        if isinstance(present, pa.LargeListArray):
            self.lengths.add(pc.list_value_length(present).to_numpy())
            values = present.flatten()
        else:
            self.lengths.add(np.ones(len(present), np.int64))
            values = present
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
            self.numbers.add(values.to_numpy())
            if self.feature.dtype == "int64" and self.is_identifier:
                self.distinct.add_integers(values.to_numpy())

    def _add_strings(self, values: pa.Array) -> None:
        self.numbers.add(pc.binary_length(values).to_numpy())
        if self.counts is not None:
            found = pc.value_counts(values)
            values, counts = found.flatten()
            self.counts = _limited(
                self.counts
                + Counter(dict(zip(values.to_pylist(), counts.to_pylist(), strict=True)))
            )
        _, offsets, data = values.buffers()
        if len(values):
            self.distinct.add_strings(
                np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8),
                np.frombuffer(offsets, np.int64, len(values) + 1, 8 * values.offset),
            )

    def merge(self, other: "_Column") -> None:
        self.missing += other.missing
        self.lengths.merge(other.lengths)
        self.numbers.merge(other.numbers)
        self.distinct.merge(other.distinct)
        if self.counts is None or other.counts is None:
            self.counts = None
        else:
            self.counts = _limited(self.counts + other.counts)

    def proto(self) -> statistics_pb2.FeatureNameStatistics:
        proto = statistics_pb2.FeatureNameStatistics(type=_TYPES[self.feature.dtype])
        proto.path.step.append(self.feature.name)
        if self.feature.dtype == "string":
            self._fill_strings(proto.string_stats)
        else:
            self._fill_numbers(proto.num_stats)
            if self.feature.dtype == "int64" and self.is_identifier:
                proto.custom_stats.add(name="distinct", num=round(self.distinct.estimate()))
        return proto

    def _fill_common(self, common: statistics_pb2.CommonStatistics) -> None:
        common.num_missing = self.missing
        common.num_non_missing = self.lengths.count
        if self.lengths.count:
            common.min_num_values = int(self.lengths.low)
            common.max_num_values = int(self.lengths.high)
            common.avg_num_values = self.lengths.mean
            common.tot_num_values = round(self.lengths.mean * self.lengths.count)
        _fill_histogram(common.num_values_histogram, self.lengths)

    def _fill_numbers(self, proto: statistics_pb2.NumericStatistics) -> None:
        numbers = self.numbers
        self._fill_common(proto.common_stats)
        if numbers.count:
            proto.mean, proto.std_dev = numbers.mean, numbers.deviation
            proto.min, proto.median, proto.max = numbers.low, numbers.median(), numbers.high
        proto.num_zeros = numbers.zeros
        _fill_histogram(proto.histograms.add(), numbers)

    def _fill_strings(self, proto: statistics_pb2.StringStatistics) -> None:
        self._fill_common(proto.common_stats)
        proto.avg_length = self.numbers.mean
        if self.counts is None:
            proto.unique = round(self.distinct.estimate())
            return
        proto.unique = len(self.counts)
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        for rank, (value, count) in enumerate(ranked):
            label = value.decode("utf-8", "backslashreplace")
            if rank < _TOP_VALUES:
                proto.top_values.add(value=label, frequency=count)
            proto.rank_histogram.buckets.add(
                low_rank=rank, high_rank=rank, label=label, sample_count=count
            )


def _limited(counts: Counter[bytes]) -> Counter[bytes] | None:
    return counts if len(counts) <= COUNTED_STRINGS else None


def _fill_histogram(proto: statistics_pb2.Histogram, numbers: Numbers) -> None:
    proto.type = statistics_pb2.Histogram.STANDARD
    proto.num_nan, proto.num_undefined = numbers.nans, numbers.infinities
    for low, high, count in numbers.bins():
        proto.buckets.add(low_value=low, high_value=high, sample_count=count)
