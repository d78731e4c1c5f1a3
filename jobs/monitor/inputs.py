"""Inputs of logged requests against the training data: drift, missing and unknown values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmdcm.features.column_view import ColumnView, Histogram
from cmdcm.features.distributions import CATEGORICAL, pairs
from cmdcm.features.drift import Columns
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.validation import vocabulary_coverage
from cmdcm.jobs.prediction_logs import ServedFeatures
from cmdcm.model.stability import psi_of_counts


def excess_psi(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Returns PSI above what chance gives, at least 0, and what chance gives.

    Samples of n and m of one distribution have on average (bins - 1) (1 / n + 1 / m) (Yurdakul and
    Naranjo, Statistical properties of the population stability index, Journal of Risk Model
    Validation 14, 2020).

    Args:
        first: [bins], counts.
        second: [bins], counts in the same bins.

    Example:
        >>> excess_psi(np.array([100.0, 100.0]), np.array([100.0, 100.0]))
        (0.0, 0.01)
    """
    chance = (len(first) - 1) * (1 / first.sum() + 1 / second.sum())
    return max(float(psi_of_counts(first, second)) - chance, 0.0), float(chance)


def input_drift(
    base: Columns,
    served: Columns,
    spec: FeatureSpec,
    min_count: int,
    exclude: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Returns name, psi and chance (`excess_psi`) of each distribution with enough values.

    The largest is first.
    """
    found = []
    for feature in spec.inputs:
        absent = feature.name not in base or feature.name not in served
        if absent or feature.name in exclude:
            continue
        before, after = base[feature.name], served[feature.name]
        if before.dtype != after.dtype or not (before.present and after.present):
            continue
        for pair in pairs(feature, before, after):
            if pair.count >= min_count:
                psi, chance = excess_psi(*_counts(pair.first, pair.second))
                found.append({"name": pair.name, "psi": psi, "chance": chance})
    return sorted(found, key=lambda entry: -entry["psi"])


def input_rates(base: Columns, served: ServedFeatures, spec: FeatureSpec) -> list[dict[str, Any]]:
    """Returns name, null_rate, training_null_rate and oov_rate of every input.

    A null is a value that is not there. Requests of tensors cannot leave one out: there the default
    of a category stands for it. An input that no request carried has the null rate 1. `oov_rate`
    is None where there is no vocabulary.
    """
    found = []
    for feature in spec.inputs:
        before, after = base.get(feature.name), served.columns.get(feature.name)
        covered = vocabulary_coverage(after, feature.vocabulary) if after is not None else None
        found.append(
            {
                "name": feature.name,
                "null_rate": _served_null_rate(after, served, feature),
                "training_null_rate": _null_rate(before, feature) if before is not None else 0.0,
                "oov_rate": None if covered is None else 1 - covered,
            }
        )
    return found


def _counts(first: Histogram, second: Histogram) -> list[np.ndarray]:
    bins = list({**first, **second})
    return [np.array([side.get(b, 0) for b in bins], np.float64) for side in (first, second)]


def _served_null_rate(column: ColumnView | None, served: ServedFeatures, feature: Feature) -> float:
    if column is None:
        return 1.0
    lacking = served.missing.get(feature.name, 0) / max(served.requests, 1)
    return lacking + (1 - lacking) * _null_rate(column, feature)


def _null_rate(column: ColumnView, feature: Feature) -> float:
    if feature.shape != "scalar" or feature.encoding not in CATEGORICAL:
        return column.null_rate
    rows = column.missing + column.present
    return (column.missing + _defaults(column, feature)) / rows if rows else 0.0


def _defaults(column: ColumnView, feature: Feature) -> int:
    """Returns how many values are the default, as far as the statistics tell."""
    if feature.dtype == "string":
        strings: Mapping[str | float, float] = column.strings or {}
        return int(strings.get(str(feature.default), 0))
    # Zero is a real value of an index, such as the hour.
    return column.zeros if feature.default == 0 and feature.encoding == "hash" else 0
