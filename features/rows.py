"""Rows of examples as Arrow tables: the encoder's way back, for checks of values."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from cmdcm.core.errors import DataError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.tfrecord import read_records

_BATCH = 4096  # examples parsed at once
_TYPES = {
    "int64": (tf.int64, pa.int64()),
    "float32": (tf.float32, pa.float32()),
    "string": (tf.string, pa.large_binary()),
}


def parse_rows(serialized: Sequence[bytes], features: Sequence[Feature]) -> pa.Table:
    """Parses serialized tf.train.Examples.

    Args:
        serialized: The examples.
        features: What to parse.

    Returns:
        A column for each feature. A scalar or vector without a value is null; a sequence without
        one is empty, for parsing does not tell an absent list from an empty one. A scalar of which
        an example has several values is a column of lists.

    Raises:
        DataError: Names a feature of another type.

    Example:
        >>> from cmdcm.features.encode import encode_examples
        >>> price = Feature(name="price", dtype="float32", side="item")
        >>> carts = Feature(name="carts", dtype="int64", side="user", shape="sequence", length=9)
        >>> encoded = list(encode_examples(pa.table({"price": [1.5, None], "carts": [[], [3]]})))
        >>> parse_rows(encoded, [price, carts]).to_pydict()
        {'price': [1.5, None], 'carts': [[], [3]]}
    """
    parsers = {f.name: tf.io.RaggedFeature(_TYPES[f.dtype][0], row_splits_dtype=tf.int64)
               for f in features}  # fmt: skip
    columns: dict[str, list[pa.Array]] = {f.name: [] for f in features}
    for start in range(0, max(len(serialized), 1), _BATCH):
        block = tf.constant(list(serialized[start : start + _BATCH]), tf.string)
        try:
            parsed = tf.io.parse_example(block, parsers)
        except tf.errors.InvalidArgumentError as error:
            reason = error.message[error.message.find("Key: ") :].splitlines()[0]
            raise DataError(
                f"an example does not have the columns of its spec. {reason}"
            ) from error
        for feature in features:
            columns[feature.name].append(_lists(parsed[feature.name], feature))
    return pa.table({f.name: _shaped(pa.concat_arrays(columns[f.name]), f) for f in features})


def _lists(values: tf.RaggedTensor, feature: Feature) -> pa.LargeListArray:
    splits = values.row_splits.numpy()
    flat = pa.array(values.values.numpy(), _TYPES[feature.dtype][1])
    absent = None if feature.shape == "sequence" else pa.array(np.diff(splits) == 0)
    return pa.LargeListArray.from_arrays(pa.array(splits), flat, mask=absent)


def _shaped(lists: pa.LargeListArray, feature: Feature) -> pa.Array:
    starts = lists.offsets.to_numpy()
    lengths = np.diff(starts)
    if feature.shape != "scalar" or lengths.max(initial=0) > 1:
        return lists
    rows = np.where(lengths == 1, starts[:-1], 0)
    return lists.values.take(pa.array(rows, mask=lengths == 0))


def sample_rows(
    directory: Path, manifest: Mapping[str, Any], spec: FeatureSpec, count: int
) -> pa.Table:
    """Reads about `count` rows of a directory of examples, or all when there are fewer.

    Every day gives its part of them, as many of each of its shards, and from the front: the rows
    are the same each time.

    Raises:
        DataError: A shard is corrupted, or a feature has another type than the spec.
    """
    share = min(1.0, count / max(manifest["rows"], 1))
    records: list[bytes] = []
    tables = []
    for day, summary in sorted(manifest["days"].items()):
        shards = sorted((Path(directory) / day).glob("part-*"))
        each = math.ceil(share * summary["rows"] / max(len(shards), 1)) if share < 1 else None
        for shard in shards:
            records += itertools.islice(read_records(shard), each)
            if len(records) >= _BATCH:
                tables.append(_scalar_rows(records, spec))
                records = []
    tables.append(_scalar_rows(records, spec))
    return pa.concat_tables(tables)


def _scalar_rows(records: Sequence[bytes], spec: FeatureSpec) -> pa.Table:
    rows = parse_rows(records, spec.features)
    for feature in spec.features:
        if feature.shape == "scalar" and pa.types.is_large_list(rows[feature.name].type):
            raise DataError(
                f"an example has several values of {feature.name!r}, which is a scalar in its "
                "spec: write the examples again"
            )
    return rows
