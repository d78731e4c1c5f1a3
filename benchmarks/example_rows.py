"""Random rows of examples with the real feature spec, for benchmarks of encoder and input."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.datasets.calendar import calendar_of
from cmdcm.datasets.events import event_schema
from cmdcm.features.columns import example_spec
from cmdcm.features.spec import Feature, FeatureSpec, arrow_type

USED = 8
"""Mean number of elements of a sequence."""


def benchmark_spec() -> FeatureSpec:
    """Returns the spec of the default settings for a log with every optional column."""
    config = Config()
    events = event_schema(["category_id", "seller_id", "brand_id", "price"])
    return example_spec(config.features, events, calendar_of(config.calendar), config.labels)


def example_rows(spec: FeatureSpec, rows: int, seed: int) -> pa.Table:
    """Returns `rows` random rows of the spec's columns."""
    random = np.random.default_rng(seed)
    lengths = {
        name: np.minimum(random.geometric(1 / (USED + 1), rows) - 1, columns[0].length)
        for name, columns in spec.sequences().items()
    }
    return pa.table({f.name: _column(f, rows, lengths, random) for f in spec.features})


def python_example(row: Mapping[str, Any]) -> bytes:
    """Serializes a row value by value with protobuf, as a plain Python client does."""
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], str):
            feature.bytes_list.value.extend(v.encode() for v in values)
        elif values and isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return bytes(example.SerializeToString())


def _column(
    feature: Feature, rows: int, lengths: dict[str, np.ndarray], random: np.random.Generator
) -> pa.Array:
    type_ = arrow_type(feature)
    if feature.shape == "scalar":
        return _values(feature, rows, random).cast(type_)
    if feature.shape == "vector":
        values = _values(feature, rows * feature.length, random)
        return pa.FixedSizeListArray.from_arrays(values.cast(type_.value_type), feature.length)
    offsets = np.concatenate([[0], np.cumsum(lengths[feature.sequence])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _values(feature, int(offsets[-1]), random))


def _values(feature: Feature, count: int, random: np.random.Generator) -> pa.Array:
    if feature.dtype == "string":
        words = np.array(feature.vocabulary or [f"promotion {i}" for i in range(4)])
        return pa.array(words[random.integers(0, len(words), count)])
    if feature.dtype == "float32":
        return pa.array(random.lognormal(3, 1, count).astype(np.float32))
    if feature.side == "label":
        return pa.array((random.random(count) < 0.03).astype(np.int64))
    if feature.name.endswith("_ms"):
        return pa.array(random.integers(1_510_000_000_000, 1_520_000_000_000, count))
    if feature.encoding == "age":
        return pa.array(random.lognormal(11, 2, count).astype(np.int64))
    if feature.encoding == "hash":
        return pa.array(
            random.integers(0, 10_000 if "category" in feature.name else 5_000_000, count)
        )
    if feature.encoding == "identity":
        return pa.array(random.integers(0, feature.buckets, count))
    # Counts: many zeros, a few large ones.
    return pa.array(np.maximum(random.lognormal(0, 2, count) - 1, 0).astype(np.int64))
