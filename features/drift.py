"""Comparison of two data sets, or of logged requests with the data that a model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cmdcm.core.config import ValidationConfig
from cmdcm.features.anomalies import Anomalies, exceeds
from cmdcm.features.column_statistics import TOP_VALUES
from cmdcm.features.column_view import ColumnView
from cmdcm.features.distributions import Pair, length_columns, pairs
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.validation import Columns, vocabulary_coverage


@dataclass(frozen=True)
class Distance:
    """The distance of one distribution between two data sets.

    Attributes:
        pair: The distribution in the base and in what was checked.
        value: The distance; None where either side has too few values.
        bound: The largest that is accepted.
    """

    pair: Pair
    value: float | None
    bound: float


def compare(
    base: Columns,
    checked: Columns,
    spec: FeatureSpec,
    source: Literal["against", "requests"],
    config: ValidationConfig,
    anomalies: Anomalies,
) -> list[Distance]:
    """Compares columns with those of another data set.

    Args:
        base: What the other is measured by: an earlier data set, or the training data.
        checked: The data set, or the logged requests.
        spec: The features of the data set that is checked or that the model was trained on.
        source: `against` for two data sets, `requests` for logged requests.
        config: The bounds.
        anomalies: Takes what is found.

    Returns:
        The distances of all inputs that both sides have, the greatest excess first.
    """
    if source == "against":
        _compare_names(base, checked, anomalies)
    distances = []
    with_lengths = length_columns(spec)
    for feature in spec.features:
        if feature.name not in base or feature.name not in checked:
            continue
        before, after = base[feature.name], checked[feature.name]
        if before.dtype != after.dtype:
            anomalies.add(
                "type", source, feature.name, None, None,
                f"{feature.name} is {after.dtype}, and {before.dtype} in what it is compared with: "
                "make both with the same spec",
            )  # fmt: skip
            continue
        # Labels: `cmdcm.features.maturity`; times and names of promotions have to differ.
        if not (feature.is_input and before.present and after.present):
            continue
        if source == "against":
            _compare_rates(before, after, feature, config, anomalies)
        for pair in pairs(feature, before, after, lengths=feature.name in with_lengths):
            distances.append(_distance(pair, source, config, anomalies))
    return sorted(distances, key=lambda d: d.bound - d.value if d.value is not None else 2.0)


def _compare_names(base: Columns, checked: Columns, anomalies: Anomalies) -> None:
    for name in base:
        if base[name].present and (name not in checked or not checked[name].present):
            anomalies.add(
                "feature_missing", "against", name, 0, 1,
                f"the other data set has values of {name}, this one has none: make it again, or "
                "train without it",
            )  # fmt: skip
    for name in checked:
        if checked[name].present and (name not in base or not base[name].present):
            anomalies.add(
                "feature_new", "against", name, None, None,
                f"the other data set has no {name}: a model trained on that one does not read it",
            )  # fmt: skip


def _compare_rates(
    before: ColumnView,
    after: ColumnView,
    feature: Feature,
    config: ValidationConfig,
    anomalies: Anomalies,
) -> None:
    name = feature.name
    change = abs(after.null_rate - before.null_rate)
    if exceeds(change, config.max_null_rate_change):
        anomalies.add(
            "null_rate_change", "against", name, change, config.max_null_rate_change,
            f"rows without {name} went from {before.null_rate:.2%} to {after.null_rate:.2%}: look "
            "for a change in the log",
        )  # fmt: skip
    covered = [vocabulary_coverage(column, feature.vocabulary) for column in (before, after)]
    if covered[0] is not None and covered[1] is not None:
        change = abs(covered[1] - covered[0])
        if exceeds(change, config.max_coverage_change):
            anomalies.add(
                "coverage_change", "against", name, change, config.max_coverage_change,
                f"values of {name} in its vocabulary went from {covered[0]:.2%} to "
                f"{covered[1]:.2%}: look for new values, or extend the vocabulary",
            )  # fmt: skip
    if before.strings and after.strings:
        top = list(before.strings)[:TOP_VALUES]
        shares = [
            sum((c.strings or {}).get(value, 0) for value in top) / c.count for c in (before, after)
        ]
        change = abs(shares[1] - shares[0])
        if exceeds(change, config.max_top_values_change):
            anomalies.add(
                "top_values_change", "against", name, change, config.max_top_values_change,
                f"the other data set's {len(top)} most frequent values of {name} went from "
                f"{shares[0]:.2%} to {shares[1]:.2%} of its values: check that they mean the same",
            )  # fmt: skip


def _distance(
    pair: Pair,
    source: Literal["against", "requests"],
    config: ValidationConfig,
    anomalies: Anomalies,
) -> Distance:
    kind = "drift" if source == "against" else "skew"
    bound = float(getattr(config, f"max_{pair.measure}_{kind}"))
    if pair.count < config.min_count:
        return Distance(pair, None, bound)
    value = pair.distance()
    if exceeds(value, bound):
        base, advice = (
            ("the other data set's", "find out what changed, or train anew on recent data")
            if kind == "drift"
            else ("the training data's", "compare how client and training data make it")
        )
        measure = "L-infinity distance" if pair.measure == "linf" else "Jensen-Shannon divergence"
        anomalies.add(
            f"{pair.measure}_{kind}", source, pair.name, value, bound,
            f"the {measure} between {pair.name} and {base} is {value:.3f}: {advice}",
        )  # fmt: skip
    return Distance(pair, value, bound)


def not_compared(distances: Sequence[Distance]) -> list[str]:
    """Returns the names of the distributions with too few values."""
    return [distance.pair.name for distance in distances if distance.value is None]
