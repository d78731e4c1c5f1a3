"""A small spec, and the statistics of tables of it, for the tests of validation."""

from typing import Any

import numpy as np
import pyarrow as pa

from cmdcm.core.config import ValidationConfig
from cmdcm.features.anomalies import Anomalies
from cmdcm.features.column_view import ColumnView, column_views
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder

SPEC = FeatureSpec(
    features=(
        Feature(
            name="user_id", dtype="int64", side="user", encoding="hash", buckets=1000, table="user"
        ),
        Feature(
            name="counts",
            dtype="int64",
            side="user",
            shape="vector",
            length=2,
            encoding="log1p",
            components=("click", "cart"),
        ),
        Feature(
            name="ages",
            dtype="int64",
            side="user",
            shape="sequence",
            length=3,
            encoding="age",
            default=-1,
            sequence="seen",
        ),
        Feature(
            name="hour",
            dtype="int64",
            side="context",
            encoding="identity",
            buckets=24,
            table="hour",
        ),
        Feature(
            name="kind",
            dtype="string",
            side="context",
            encoding="vocabulary",
            vocabulary=("a", "b"),
            table="kind",
            default="",
        ),
        Feature(name="price", dtype="float32", side="item", encoding="log1p"),
        Feature(name="direct", dtype="int64", side="label"),
        Feature(name="delayed", dtype="int64", side="label"),
        Feature(name="observation_time_ms", dtype="int64", side="meta"),
        Feature(name="direct_known_ms", dtype="int64", side="meta"),
        Feature(name="delayed_known_ms", dtype="int64", side="meta"),
    )
)
TYPES = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.string()}


def sound(rows: int = 100, seed: int = 0, **columns: Any) -> pa.Table:
    """A table in which no check finds anything, with some columns replaced; None leaves one out."""
    random = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "user_id": random.integers(0, 100, rows),
        "counts": random.poisson(2, (rows, 2)).tolist(),
        "ages": [list(range(n)) for n in random.integers(0, 4, rows)],
        "hour": random.integers(0, 24, rows),
        "kind": random.choice(["a", "b"], rows).tolist(),
        "price": random.lognormal(3, 1, rows).tolist(),
        "direct": random.integers(0, 2, rows),
        "delayed": random.integers(0, 2, rows),
        "observation_time_ms": np.full(rows, 10),
        "direct_known_ms": np.full(rows, 9),
        "delayed_known_ms": np.full(rows, 10),
        **columns,
    }
    arrays = {}
    for name, column in values.items():
        if column is not None:
            feature = SPEC[name]
            kind = TYPES[feature.dtype]
            arrays[name] = pa.array(column, kind if feature.shape == "scalar" else pa.list_(kind))
    return pa.table(arrays)


def views(table: pa.Table, spec: FeatureSpec = SPEC) -> dict[str, ColumnView]:
    """The statistics of a table."""
    builder = StatisticsBuilder(spec)
    builder.add(table)
    return column_views(builder.proto())


def collector(**settings: object) -> tuple[ValidationConfig, Anomalies]:
    """Settings, and what collects anomalies under them."""
    config = ValidationConfig(**settings)
    return config, Anomalies(config)


def codes(anomalies: Anomalies) -> set[tuple[str, str]]:
    """Code and feature of every anomaly."""
    return {(anomaly.code, anomaly.feature) for anomaly in anomalies.found}
