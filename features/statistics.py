"""Statistics of examples in constant memory, as TensorFlow Metadata's protos.

A builder takes tables one by one, and builders of partitions merge; the result does not depend on
the order or the partition (means and deviations up to rounding). Every column of the spec has

- rows with and without a value (a null is no value, an empty list is one of length 0);
- list lengths: least, most, mean, sum, histogram;
- numbers: mean, deviation, zeros, min, median, max and a histogram of fixed bins, four an octave;
- strings: mean length, distinct values, and how often each occurs while there are few of them.

Custom statistics:

- `distinct`: distinct values of an identifier of type int64;
- `hashes`: values of a string or an identifier by 256 bins of their hash, as a histogram;
- `in_vocabulary`: values that are in the feature's vocabulary;
- `component:NAME`: histogram of a vector's component.

Numbers of distinct values are estimates with a standard error of 1.6 %, but exact for strings
while each is counted.
"""

import hashlib
import io
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import statistics_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.column_statistics import ColumnStatistics
from cmdcm.features.sketches import Categories
from cmdcm.features.spec import FeatureSpec


class StatisticsBuilder:
    """Accumulates the statistics of tables of examples.

    Example:
        >>> from cmdcm.features.spec import Feature
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
        self._columns = [ColumnStatistics(feature) for feature in spec.features]

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

    def distinct(self, names: Collection[str]) -> float:
        """Returns the estimated number of distinct values in several columns of one type."""
        union = Categories()
        for column in self._columns:
            if column.feature.name in names:
                union.merge(column.categories)
        return union.distinct()

    def proto(self) -> statistics_pb2.DatasetFeatureStatisticsList:
        """Returns the statistics of one data set."""
        result = statistics_pb2.DatasetFeatureStatisticsList()
        dataset = result.datasets.add(num_examples=self._rows)
        dataset.features.extend(column.proto() for column in self._columns)
        return result

    def to_bytes(self) -> bytes:
        """Returns the builder as bytes: a compressed .npz without pickled objects.

        Equal builders give equal bytes. What `from_bytes` makes of them merges as this builder
        does, bit for bit, in another process or in a resumed run.
        """
        states = [column.state() for column in self._columns]
        # One array of all columns by kind: an archive of many small ones is ten times slower.
        keys = states[0] if states else {}
        arrays: dict[str, Any] = {
            "spec": _digest(self._spec),
            "rows": np.array(self._rows),
            "sizes": np.array([[state[key].size for key in keys] for state in states], np.int64),
            **{key: np.concatenate([state[key] for state in states]) for key in keys},
        }
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, spec: FeatureSpec, data: bytes) -> "StatisticsBuilder":
        """Returns the builder of which `to_bytes` made `data`.

        Raises:
            DataError: The bytes are damaged, or come from a builder of another spec.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = dict(file)
        except (ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise DataError(f"these bytes hold no statistics: {error}") from error
        if not np.array_equal(arrays.pop("spec", None), _digest(spec)):
            raise DataError("these statistics were made with another feature spec; make them anew")
        builder = cls(spec)
        builder._rows = int(arrays.pop("rows"))
        ends = np.cumsum(arrays.pop("sizes"), axis=0)
        parts = {key: np.split(array, ends[:, k]) for k, (key, array) in enumerate(arrays.items())}
        builder._columns = [
            ColumnStatistics.from_state(feature, {key: part[i] for key, part in parts.items()})
            for i, feature in enumerate(spec.features)
        ]
        return builder

    def write(self, path: Path) -> None:
        """Writes the statistics as a text proto."""
        path.write_text(text_format.MessageToString(self.proto(), as_utf8=True), "utf-8")


def _digest(spec: FeatureSpec) -> np.ndarray:
    """Returns the SHA-256 of a spec, uint8 [32], but for the rows of tables, chosen afterwards."""
    described = spec.model_dump_json(exclude={"features": {"__all__": {"buckets", "hashes"}}})
    return np.frombuffer(hashlib.sha256(described.encode()).digest(), np.uint8)


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
