"""Checks of one data set's statistics: against a schema, and against what its spec says of values.

`cmdcm.features.drift` compares two data sets.
"""

from collections.abc import Iterator, Mapping, Sequence

from tensorflow_metadata.proto.v0 import schema_pb2

from cmdcm.core.config import ValidationConfig
from cmdcm.features.anomalies import Anomalies, Source, exceeds
from cmdcm.features.buckets import collision_rate
from cmdcm.features.column_view import ColumnView
from cmdcm.features.columns import labels_of
from cmdcm.features.spec import Feature, FeatureSpec

Columns = Mapping[str, ColumnView]

_TYPES = {
    schema_pb2.FeatureType.INT: "int64",
    schema_pb2.FeatureType.FLOAT: "float32",
    schema_pb2.FeatureType.BYTES: "string",
}
_NOT_IN_PRODUCTION = (
    schema_pb2.LifecycleStage.PLANNED,
    schema_pb2.LifecycleStage.ALPHA,
    schema_pb2.LifecycleStage.DEBUG_ONLY,
    schema_pb2.LifecycleStage.DEPRECATED,
    schema_pb2.LifecycleStage.DISABLED,
)


def check_schema(
    columns: Columns,
    schema: schema_pb2.Schema,
    environment: str,
    source: Source,
    config: ValidationConfig,
    anomalies: Anomalies,
) -> None:
    """Checks columns against a schema: which there are, types, lengths, presence, domains.

    Args:
        columns: The statistics by column.
        schema: What the data should be like.
        environment: Features of other environments are not expected.
        source: `schema`, or `requests` where the columns are those of logged requests.
        config: The bound of the vocabulary coverage.
        anomalies: Takes what is found.
    """
    expected = [f for f in schema.feature if _is_expected(f, environment, schema)]
    known = {feature.name for feature in expected}
    for feature in expected:
        name = feature.name
        if name not in columns or not columns[name].present:
            if feature.presence.min_count or feature.presence.min_fraction:
                anomalies.add(
                    "feature_missing", source, name, 0, feature.presence.min_count or 1,
                    f"no row has a value of {name}: make it again, or drop it from the schema",
                )  # fmt: skip
            continue
        _check_feature(columns[name], feature, schema, source, config, anomalies)
    for name in columns:
        if name not in known and columns[name].present:
            anomalies.add(
                "feature_new", source, name, None, None,
                f"the schema has no {name} in {environment}: add it there, or leave it out",
            )  # fmt: skip


def _is_expected(feature: schema_pb2.Feature, environment: str, schema: schema_pb2.Schema) -> bool:
    if feature.deprecated or feature.lifecycle_stage in _NOT_IN_PRODUCTION:
        return False
    if environment in feature.in_environment:
        return True
    if environment in feature.not_in_environment:
        return False
    return not schema.default_environment or environment in schema.default_environment


def _check_feature(
    column: ColumnView,
    feature: schema_pb2.Feature,
    schema: schema_pb2.Schema,
    source: Source,
    config: ValidationConfig,
    anomalies: Anomalies,
) -> None:
    name = feature.name
    wanted = _TYPES.get(feature.type, "struct")
    if column.dtype != wanted:
        anomalies.add(
            "type", source, name, None, None,
            f"{name} is {column.dtype}, the schema says {wanted}: write it with the schema's type",
        )  # fmt: skip
        return
    share = 1 - column.null_rate
    if exceeds(feature.presence.min_fraction, share):
        anomalies.add(
            "presence", source, name, share, feature.presence.min_fraction,
            f"{column.missing:,} rows have no {name}, which the schema demands: find out why, or "
            "lower presence.min_fraction",
        )  # fmt: skip
    least, most = _value_count(feature)
    found = column.lengths or (0, 0)
    for value, bound, faulty in (
        (found[0], least, least is not None and found[0] < least),
        (found[1], most, most is not None and found[1] > most),
    ):
        if faulty:
            anomalies.add(
                "length", source, name, value, bound,
                f"a row of {name} has {value} values, the schema says {_interval(least, most)}: "
                "cut or fill it, or change the schema",
            )  # fmt: skip
    _check_range(column, feature, source, anomalies)
    coverage = vocabulary_coverage(column, _string_domain(feature, schema))
    if coverage is not None and exceeds(config.min_vocabulary_coverage, coverage):
        anomalies.add(
            "vocabulary_coverage", source, name, coverage, config.min_vocabulary_coverage,
            f"{1 - coverage:.2%} of the values of {name} are outside its vocabulary and share one "
            "embedding: extend the vocabulary",
        )  # fmt: skip


def _value_count(feature: schema_pb2.Feature) -> tuple[int | None, int | None]:
    """Least and most values of a row; None for no bound."""
    if feature.HasField("shape"):
        size = 1
        for dim in feature.shape.dim:
            size *= dim.size
        return size, size
    count = feature.value_count
    return (
        count.min if count.HasField("min") else None,
        count.max if count.HasField("max") else None,
    )


def _check_range(
    column: ColumnView, feature: schema_pb2.Feature, source: Source, anomalies: Anomalies
) -> None:
    if column.range is None:
        return
    for domain in ("int_domain", "float_domain"):
        if not feature.HasField(domain):
            continue
        bounds = getattr(feature, domain)
        low = bounds.min if bounds.HasField("min") else None
        high = bounds.max if bounds.HasField("max") else None
        for value, bound, faulty in (
            (column.range[0], low, low is not None and column.range[0] < low),
            (column.range[1], high, high is not None and column.range[1] > high),
        ):
            if faulty:
                anomalies.add(
                    "out_of_range", source, feature.name, value, bound,
                    f"{feature.name} holds {value:g}, outside {_interval(low, high)}: correct "
                    "the value or widen the domain (for an index: its buckets)",
                )  # fmt: skip


def _interval(low: float | None, high: float | None) -> str:
    return f"[{'-inf' if low is None else f'{low:g}'}, {'inf' if high is None else f'{high:g}'}]"


def _string_domain(feature: schema_pb2.Feature, schema: schema_pb2.Schema) -> Sequence[str] | None:
    if feature.HasField("string_domain"):
        return tuple(feature.string_domain.value)
    named = [domain for domain in schema.string_domain if domain.name == feature.domain]
    return tuple(named[0].value) if feature.domain and named else None


def vocabulary_coverage(column: ColumnView, vocabulary: Sequence[str] | None) -> float | None:
    """Returns the share of a column's values that are in a vocabulary.

    A column of too many strings to count each has the share of its own spec's vocabulary.

    Returns:
        The share; None without a vocabulary or without values.
    """
    if not vocabulary or not column.count:
        return None
    if column.strings is None:
        known = column.in_vocabulary
        return None if known is None else known / column.count
    return sum(column.strings.get(value, 0) for value in vocabulary) / column.count


def check_values(
    columns: Columns,
    spec: FeatureSpec,
    source: Source,
    config: ValidationConfig,
    anomalies: Anomalies,
) -> None:
    """Checks what the spec implies of values, and rates that the settings bound."""
    for feature, column in _of_spec(columns, spec):
        name = feature.name
        low, high = column.range or (0, 0)
        if feature.encoding in ("log1p", "age") and low < 0:
            anomalies.add(
                "negative_value", source, name, low, 0,
                f"{name} holds {low:g}, but counts, amounts and ages are not negative: correct it "
                "before the logarithm makes it NaN",
            )  # fmt: skip
        if name in labels_of(spec) and not (low >= 0 and high <= 1):
            value = low if low < 0 else high
            anomalies.add(
                "label_value", source, name, value, 0 if low < 0 else 1,
                f"label {name} holds {value:g}, but is 0 or 1: correct how it is made",
            )  # fmt: skip
        if column.not_finite:
            anomalies.add(
                "not_finite", source, name, column.not_finite, 0,
                f"{column.not_finite:,} values of {name} are NaN or infinite: write a null instead",
            )  # fmt: skip
        if column.present and exceeds(column.null_rate, config.max_null_rate):
            anomalies.add(
                "null_rate", source, name, column.null_rate, config.max_null_rate,
                f"{column.null_rate:.2%} of the rows have no {name} and take its default: find out "
                "why, or leave the feature out",
            )  # fmt: skip
        if feature.encoding == "hash" and column.distinct is not None:
            rate = collision_rate(column.distinct, feature.buckets)
            if exceeds(rate, config.max_hash_collision_rate):
                anomalies.add(
                    "hash_collision_rate", source, name, rate, config.max_hash_collision_rate,
                    f"about {rate:.0%} of the {column.distinct:,} distinct values of {name} find "
                    f"one of its {feature.buckets:,} buckets taken: raise the setting "
                    f"features.{feature.table}_buckets",
                )  # fmt: skip


def _of_spec(columns: Columns, spec: FeatureSpec) -> Iterator[tuple[Feature, ColumnView]]:
    """Yields the spec's features that there are with the spec's type."""
    for feature in spec.features:
        column = columns.get(feature.name)
        if column is not None and column.dtype == feature.dtype:
            yield feature, column
