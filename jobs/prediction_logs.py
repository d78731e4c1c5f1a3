"""Logged serving requests -> the statistics of what was served.

The files are TFRecords of TensorFlow Serving's PredictionLog, as the server's request logging
writes them and an export's warm-up file is. Both layouts of `cmdcm.export.signatures` are read:

- serialized examples: every example counts as one row of all features;
- the user once and N candidates: one row of the user side and N rows of the candidate side, as
  training has one row a click and a request with many candidates says no more of its user.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from tensorflow.core.example.example_pb2 import Example
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.errors import DataError
from cmdcm.export.signatures import EXAMPLES_INPUT
from cmdcm.features.column_view import ColumnView, column_views
from cmdcm.features.rows import parse_rows
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder
from cmdcm.features.tfrecord import read_records
from cmdcm.serving.tensors import from_protos

_FLUSH = 4096  # rows held until they are added to the statistics
_KINDS = {"int64": "int64_list", "float32": "float_list", "string": "bytes_list"}
_DTYPES = {"int64": np.dtype(np.int64), "float32": np.dtype(np.float32), "string": np.dtype("O")}


@dataclass
class ServedFeatures:
    """What logged requests carried.

    Attributes:
        files: Log files.
        requests: Requests read.
        examples: Examples in them.
        candidates: Candidates in those that name their features.
        skipped: Records passed over, by the reason.
        unknown: Requests that carry a feature that the spec does not have, by its name.
        missing: Requests that name their features and lack one of the spec, by its name.
        wrong_type: Requests in which a feature does not have the spec's type, by its name.
        wrong_shape: Requests in which it does not have the spec's shape, by its name.
        columns: Statistics of the features that came with the spec's type and shape.
        complete: Whether all records were read, and not only so many rows as were asked for.
    """

    files: int = 0
    requests: int = 0
    examples: int = 0
    candidates: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    wrong_type: Counter[str] = field(default_factory=Counter)
    wrong_shape: Counter[str] = field(default_factory=Counter)
    columns: Mapping[str, ColumnView] = field(default_factory=dict)
    complete: bool = True

    @property
    def rows(self) -> int:
        """Examples and candidates."""
        return self.examples + self.candidates


def read_requests(
    files: Sequence[Path], spec: FeatureSpec, *, max_rows: int, max_bytes: int
) -> ServedFeatures:
    """Reads logged requests.

    Args:
        files: TFRecords of PredictionLog, plain or gzip.
        spec: The model's features.
        max_rows: Examples and candidates after which reading ends.
        max_bytes: The largest tensors that a request may carry.

    Raises:
        DataError: A file is missing, corrupted, or holds something else.
    """
    served = ServedFeatures(files=len(files))
    reader = _Reader(spec, served, max_bytes)
    for log in read_logs(files):
        if served.rows >= max_rows:
            served.complete = False
            break
        reader.add(log)
    served.columns = reader.columns()
    return served


def read_logs(files: Sequence[Path]) -> Iterator[prediction_log_pb2.PredictionLog]:
    """Yields the records of TFRecords of PredictionLog, plain or gzip.

    Raises:
        DataError: A file is missing, corrupted, or holds something else.
    """
    for file in files:
        for number, record in enumerate(read_records(file)):
            try:
                yield prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as error:
                raise DataError(
                    f"{file}: record {number} is no PredictionLog ({error}); pass the files that "
                    "TensorFlow Serving's request logging wrote"
                ) from error


class _Reader:
    """Adds requests to the statistics of the user side and of the candidate side."""

    def __init__(self, spec: FeatureSpec, served: ServedFeatures, max_bytes: int) -> None:
        self._spec = spec
        self._served = served
        self._max_bytes = max_bytes
        self._sides = {
            side: StatisticsBuilder(FeatureSpec(features=features))
            for side, features in (("user", spec.user_inputs), ("item", spec.candidate_inputs))
        }
        self._side_of = {
            f.name: side
            for side, features in (("user", spec.user_inputs), ("item", spec.candidate_inputs))
            for f in features
        }
        self._pending: dict[str, list[pa.Table]] = {side: [] for side in self._sides}
        self._seen: set[str] = set()

    def add(self, log: prediction_log_pb2.PredictionLog) -> None:
        if log.WhichOneof("log_type") != "predict_log":
            self._served.skipped[log.WhichOneof("log_type") or "empty record"] += 1
            return
        inputs = log.predict_log.request.inputs
        try:
            arrays = from_protos(inputs, self._max_bytes)
        except ValueError as error:
            self._served.skipped[str(error)] += 1
            return
        if list(arrays) == [EXAMPLES_INPUT]:
            self._add_examples(arrays[EXAMPLES_INPUT])
        else:
            self._add_tensors(arrays)

    def _add_examples(self, array: np.ndarray) -> None:
        serialized = array.ravel().tolist()
        names: set[str] = set()
        wrong: set[str] = set()
        try:
            for example in map(Example.FromString, serialized):
                for name, value in example.features.feature.items():
                    names.add(name)
                    kind = value.WhichOneof("kind")
                    if name in self._side_of and kind not in (
                        None,
                        _KINDS[self._spec[name].dtype],
                    ):
                        wrong.add(name)
        except (DecodeError, TypeError):
            self._served.skipped["its input is no serialized tf.train.Example"] += 1
            return
        self._served.requests += 1
        self._served.examples += len(serialized)
        # Labels and times may be there: the signature passes them over.
        self._served.unknown.update(name for name in names if name not in self._spec)
        self._served.wrong_type.update(wrong)
        features = [f for f in self._spec.inputs if f.name in names - wrong]
        if not features:
            return
        rows = parse_rows(serialized, features)
        columns: dict[str, pa.Array] = {}
        for feature in features:
            column = rows[feature.name].combine_chunks()
            if _is_shaped(feature, column):
                columns[feature.name] = column
            else:
                self._served.wrong_shape[feature.name] += 1
        self._add_columns(columns, {"user": len(rows), "item": len(rows)})

    def _add_tensors(self, arrays: dict[str, np.ndarray]) -> None:
        served = self._served
        served.requests += 1
        served.unknown.update(name for name in arrays if name not in self._side_of)
        served.missing.update(name for name in self._side_of if name not in arrays)
        candidates = max(
            (len(a) for n, a in arrays.items() if self._side_of.get(n) == "item" and a.ndim),
            default=0,
        )
        served.candidates += candidates
        counts = {"user": 1, "item": candidates}
        shaped: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            if name not in self._side_of:
                continue
            feature, rows = self._spec[name], counts[self._side_of[name]]
            if array.dtype != _DTYPES[feature.dtype]:
                served.wrong_type[name] += 1
            elif array.shape != ((rows,) if feature.shape == "scalar" else (rows, feature.length)):
                served.wrong_shape[name] += 1
            else:
                shaped[name] = array
        lengths = self._lengths(shaped)
        self._add_columns(
            {
                name: _column(self._spec[name], array, lengths.get(name))
                for name, array in shaped.items()
            },
            counts,
        )

    def _lengths(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Elements of each row of a sequence that are no padding, by column."""
        lengths: dict[str, np.ndarray] = {}
        for columns in self._spec.sequences().values():
            ages = next((f.name for f in columns if f.encoding == "age" and f.name in arrays), "")
            if ages:
                of_ages = np.sum(arrays[ages] >= 0, axis=1)
                lengths |= {f.name: of_ages for f in columns if f.name in arrays}
        for name, array in arrays.items():
            feature = self._spec[name]
            if feature.shape == "sequence" and name not in lengths:
                default = (
                    str(feature.default).encode() if feature.dtype == "string" else feature.default
                )
                places = np.arange(1, feature.length + 1)
                lengths[name] = np.max(np.where(array != default, places, 0), axis=1)
        return lengths

    def _add_columns(self, columns: Mapping[str, pa.Array], counts: Mapping[str, int]) -> None:
        self._seen.update(columns)
        for side, pending in self._pending.items():
            mine = {name: c for name, c in columns.items() if self._side_of[name] == side}
            if counts[side] and mine:
                pending.append(pa.table(mine))
            if sum(map(len, pending)) >= _FLUSH:
                self._flush(side)

    def _flush(self, side: str) -> None:
        if self._pending[side]:
            table = pa.concat_tables(self._pending[side], promote_options="default")
            self._sides[side].add(table.combine_chunks())
            self._pending[side] = []

    def columns(self) -> dict[str, ColumnView]:
        views: dict[str, ColumnView] = {}
        for side, builder in self._sides.items():
            self._flush(side)
            views |= column_views(builder.proto())
        return {name: view for name, view in views.items() if name in self._seen}


def _is_shaped(feature: Feature, column: pa.Array) -> bool:
    """Returns whether the rows of an example's column have as many values as the feature."""
    if feature.shape == "sequence":
        return True
    if feature.shape == "scalar":
        return not isinstance(column, pa.LargeListArray)
    lengths = np.diff(column.offsets.to_numpy())
    return bool(np.all((lengths == feature.length) | (lengths == 0)))


def _column(feature: Feature, array: np.ndarray, lengths: np.ndarray | None) -> pa.Array:
    """Returns the values of a tensor as the encoder takes them: sequences without padding."""
    kind = pa.large_binary() if feature.dtype == "string" else None
    if feature.shape == "scalar":
        return pa.array(array, kind)
    if lengths is None:
        lengths = np.full(len(array), feature.length)
    held = np.arange(feature.length) < lengths[:, np.newaxis]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(array[held], kind))
