"""Validation of a directory of examples: all checks, and their result as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2

from cmdcm.core.config import Config, ValidationConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_manifest
from cmdcm.features.anomalies import Anomalies
from cmdcm.features.buckets import collision_rate
from cmdcm.features.column_view import ColumnView, column_views
from cmdcm.features.drift import Distance, compare, not_compared
from cmdcm.features.leakage import FeatureAuc, check_leakage
from cmdcm.features.maturity import check_maturity, check_prevalences, prevalences
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.rows import sample_rows
from cmdcm.features.schema import SERVING, TRAINING, read_schema
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.split import split_days
from cmdcm.features.statistics import read_statistics
from cmdcm.features.validation import check_schema, check_values
from cmdcm.jobs.prediction_logs import ServedFeatures, read_requests

VERSION = 1
"""Of the result's form; a change that breaks a reader of validation.json raises it."""

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataSet:
    """A directory of examples as the checks see it."""

    directory: Path
    manifest: Mapping[str, Any]
    spec: FeatureSpec
    columns: Mapping[str, ColumnView]

    @classmethod
    def open(cls, directory: Path) -> "DataSet":
        """Opens a directory that `cmdcm features` wrote.

        Raises:
            DataError: A file of it is missing or malformed.
        """
        return cls(
            directory,
            read_manifest(directory, EXAMPLES),
            FeatureSpec.load(directory / "spec.json"),
            column_views(read_statistics(directory / "statistics.pbtxt")),
        )

    def summary(self) -> dict[str, Any]:
        """Returns what tells data sets apart."""
        days = sorted(self.manifest["days"])
        return {
            "name": self.directory.resolve().name,
            "rows": self.manifest["rows"],
            "first_day": days[0] if days else None,
            "last_day": days[-1] if days else None,
            "promotions": sorted(self.manifest["promotions"]),
        }


@dataclass(frozen=True)
class Validation:
    """The result.

    Attributes:
        result: What validation.json holds.
        drift: Distances to the other data set.
        skew: Distances of the logged requests to the data set.
    """

    result: dict[str, Any]
    drift: Sequence[Distance]
    skew: Sequence[Distance]

    @property
    def passed(self) -> bool:
        """Whether there is no anomaly that is an error."""
        return not self.result["errors"]


def validate(
    examples: Path,
    config: Config,
    *,
    against: Path | None = None,
    schema: Path | None = None,
    requests: Sequence[Path] = (),
) -> Validation:
    """Validates a directory of examples.

    Args:
        examples: The directory.
        config: Its sections `validation` (bounds) and `split` (parts whose labels are compared).
        against: Another directory of examples, to compare with.
        schema: A schema.pbtxt; the directory's own by default.
        requests: Files of logged requests, to compare with the examples.

    Raises:
        DataError: An input is missing or cannot be read.
        ConfigError: The settings name an unknown feature or code.
    """
    settings = config.validation
    data = DataSet.open(examples)
    other = DataSet.open(against) if against else None
    demanded = read_schema(schema or examples / "schema.pbtxt")
    anomalies = Anomalies(settings)
    names = {*data.spec.names(), *(feature.name for feature in demanded.feature)}
    anomalies.check_excluded(names.union(other.spec.names() if other else ()))
    notes: list[str] = []
    check_schema(data.columns, demanded, TRAINING, "schema", settings, anomalies)
    check_values(data.columns, data.spec, "data", settings, anomalies)
    rows = sample_rows(examples, data.manifest, data.spec, settings.sample_rows)
    maturity = check_maturity(rows, settings, anomalies)
    aucs = check_leakage(rows, data.spec, settings, anomalies)
    labels = _prevalences(data, other, config, anomalies, notes)
    drift: list[Distance] = []
    if other:
        drift = compare(other.columns, data.columns, data.spec, "against", settings, anomalies)
        _note_not_compared(drift, "the other data set", settings, notes)
    skew: list[Distance] = []
    served = None
    if requests:
        max_bytes = config.serving.max_message_mb << 20
        served = read_requests(
            requests, data.spec, max_rows=settings.sample_rows, max_bytes=max_bytes
        )
        skew = _check_requests(served, data, demanded, settings, anomalies, notes)
    found = sorted(anomalies.found, key=lambda a: (a.severity != "error", a.code, a.feature))
    return Validation(
        {
            "version": VERSION,
            "passed": not anomalies.count("error"),
            "errors": anomalies.count("error"),
            "warnings": anomalies.count("warning"),
            "anomalies": [anomaly.to_json() for anomaly in found],
            "notes": notes,
            "examples": data.summary(),
            "against": other.summary() if other else None,
            "schema": schema.name if schema else None,
            "requests": _requests_summary(served) if served else None,
            "features": _features(data, other, served),
            "drift": _distances(drift),
            "skew": _distances(skew),
            "labels": labels,
            "maturity": maturity,
            "leakage": {"rows": len(rows), "aucs": _aucs(aucs)},
            "settings": settings.model_dump(mode="json"),
        },
        drift,
        skew,
    )


def _prevalences(
    data: DataSet,
    other: DataSet | None,
    config: Config,
    anomalies: Anomalies,
    notes: list[str],
) -> dict[str, dict[str, float]]:
    """Compares the labels' prevalence between the parts of the split, and between data sets."""
    parts = {"all": prevalences(data.manifest["days"])}
    if other:
        parts["against"] = prevalences(other.manifest["days"])
        check_prevalences(
            [("the other data set", parts["against"]), ("this one", parts["all"])],
            "prevalence_change",
            config.validation,
            anomalies,
        )
    try:
        split = split_days(data.manifest, config.split)
    except (ConfigError, DataError) as error:
        notes.append(f"The parts of the split were not compared: {error}")
    else:
        days = data.manifest["days"]
        for part in _PARTS:
            parts[part] = prevalences({day: days[day] for day in getattr(split, part)})
        check_prevalences(
            [(f"part {part}", parts[part]) for part in _PARTS],
            "split_prevalence_change",
            config.validation,
            anomalies,
        )
    return {
        label: {
            name: counts[label][0] / counts[label][1]
            for name, counts in parts.items()
            if label in counts
        }
        for label in parts["all"]
    }


def _check_requests(
    served: ServedFeatures,
    data: DataSet,
    schema: schema_pb2.Schema,
    settings: ValidationConfig,
    anomalies: Anomalies,
    notes: list[str],
) -> list[Distance]:
    for name, count in sorted(served.unknown.items()):
        anomalies.add(
            "feature_new", "requests", name, count, 0,
            f"{count:,} requests carry {name}, which the model does not know: correct its name or "
            "do not send it",
        )  # fmt: skip
    for name, count in sorted(served.missing.items()):
        if name in served.columns:
            anomalies.add(
                "feature_missing", "requests", name, count, 0,
                f"{count:,} of {served.requests:,} requests lack {name}: send it in each",
            )  # fmt: skip
    for name, count in sorted(served.wrong_type.items()):
        anomalies.add(
            "type", "requests", name, count, 0,
            f"{name} is not {data.spec[name].dtype} in {count:,} requests: send it with this type",
        )  # fmt: skip
    for name, count in sorted(served.wrong_shape.items()):
        anomalies.add(
            "length", "requests", name, count, 0,
            f"{name} does not have {data.spec[name].length} values a row in {count:,} requests: "
            "pad or cut it",
        )  # fmt: skip
    check_schema(served.columns, schema, SERVING, "requests", settings, anomalies)
    check_values(served.columns, data.spec, "requests", settings, anomalies)
    skew = compare(data.columns, served.columns, data.spec, "requests", settings, anomalies)
    _note_not_compared(skew, "the logged requests", settings, notes)
    notes += [
        f"{count:,} logged records were passed over: {reason}."
        for reason, count in sorted(served.skipped.items())
    ]
    if not served.complete:
        notes.append(
            f"Only the first {served.rows:,} rows of the logged requests were read; "
            "validation.sample_rows sets how many."
        )
    return skew


def _note_not_compared(
    distances: Sequence[Distance], what: str, settings: ValidationConfig, notes: list[str]
) -> None:
    names = not_compared(distances)
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        notes.append(
            f"{len(names)} distributions were not compared with {what}, because one side has fewer "
            f"than {settings.min_count:,} values (validation.min_count): {shown}."
        )


def _requests_summary(served: ServedFeatures) -> dict[str, int]:
    return {
        "files": served.files,
        "requests": served.requests,
        "examples": served.examples,
        "candidates": served.candidates,
        "skipped": sum(served.skipped.values()),
    }


def _features(
    data: DataSet, other: DataSet | None, served: ServedFeatures | None
) -> list[dict[str, Any]]:
    """Returns the figures of every feature, and those of the other sides beside them."""
    sides = {"examples": data.columns}
    if other:
        sides["against"] = other.columns
    if served:
        sides["requests"] = served.columns
    return [
        {
            "name": f.name,
            "side": f.side,
            "dtype": f.dtype,
            "encoding": f.encoding,
            **{name: _figures(columns.get(f.name), f) for name, columns in sides.items()},
        }
        for f in data.spec.features
    ]


def _figures(column: ColumnView | None, feature: Feature) -> dict[str, Any] | None:
    if column is None:
        return None
    low, high = column.range or (None, None)
    distinct, known = column.distinct, column.in_vocabulary
    return {
        "count": column.count,
        "null_rate": column.null_rate,
        "min": low,
        "max": high,
        "mean": column.mean if low is not None else None,
        "distinct": distinct,
        "coverage": known / column.count if known is not None and column.count else None,
        "collision_rate": (
            collision_rate(distinct, feature.buckets)
            if feature.encoding == "hash" and distinct is not None
            else None
        ),
    }


def _distances(distances: Sequence[Distance]) -> list[dict[str, Any]]:
    return [
        {
            "feature": distance.pair.name,
            "measure": distance.pair.measure,
            "value": distance.value,
            "bound": distance.bound,
        }
        for distance in distances
    ]


def _aucs(aucs: Sequence[FeatureAuc]) -> list[dict[str, Any]]:
    return [{"feature": a.feature, "label": a.label, "auc": a.auc} for a in aucs]
