"""Label leakage: a single feature that tells a label too well was made with the label's help.

Every single input is taken as a score of every label and its AUC measured: a scalar, a vector's
component and a sequence's length by their order; a category with at most `CATEGORIES` values by its
values' mean labels on the same rows. Identifiers have no order and too many values for either.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmdcm.core.config import ValidationConfig
from cmdcm.features.anomalies import Anomalies, exceeds
from cmdcm.features.columns import labels_of
from cmdcm.features.distributions import CATEGORICAL, length_columns
from cmdcm.features.maturity import known
from cmdcm.features.spec import Feature, FeatureSpec

CATEGORIES = 50
"""Most values of a category that is checked."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FeatureAuc:
    """The AUC of one input, taken as a score, against one label."""

    feature: str
    label: str
    auc: float

    @property
    def strength(self) -> float:
        """The AUC, or 1 - AUC where that is more."""
        return max(self.auc, 1 - self.auc)


def check_leakage(
    rows: pa.Table, spec: FeatureSpec, config: ValidationConfig, anomalies: Anomalies
) -> list[FeatureAuc]:
    """Checks the AUC of every single input against every label.

    Args:
        rows: Rows of the data set, of the spec's columns. For each label those count whose label
            is known.
        spec: The features.
        config: `max_auc`, and `min_positives` of either class that a label needs.
        anomalies: Takes what is found.

    Returns:
        All AUCs, the strongest first.
    """
    labels: dict[str, tuple[Bools, Bools]] = {}  # is it known, is it positive
    for label in labels_of(spec):
        mature = known(rows, label)
        positive = rows[label].fill_null(0).to_numpy() == 1
        positives = int(np.sum(positive & mature))
        if min(positives, int(np.sum(mature)) - positives) >= config.min_positives:
            labels[label] = mature, positive
    found = []
    with_lengths = length_columns(spec)
    for feature in spec.inputs:
        if feature.shape == "sequence" and feature.name not in with_lengths:
            continue
        for name, auc_of in _aucs(rows, feature, labels):
            found += [FeatureAuc(name, label, value) for label, value in auc_of.items()]
    found.sort(key=lambda entry: (-entry.strength, entry.feature, entry.label))
    for entry in found:
        if exceeds(entry.strength, config.max_auc):
            anomalies.add(
                "leakage", "data", entry.feature, entry.strength, config.max_auc,
                f"{entry.feature} alone has an AUC of {entry.auc:.3f} against label {entry.label}: "
                "check that it is made from events before the click alone",
            )  # fmt: skip
    return found


def _aucs(
    rows: pa.Table, feature: Feature, labels: Mapping[str, tuple[Bools, Bools]]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields the AUC by label of each score that a feature gives."""
    if feature.dtype == "string" or feature.encoding in CATEGORICAL:
        if feature.shape == "scalar":
            codes = pc.fill_null(rows[feature.name], _default(feature)).combine_chunks()
            encoded = codes.dictionary_encode()
            if len(encoded.dictionary) <= CATEGORIES:
                places = encoded.indices.to_numpy()
                yield (
                    feature.name,
                    {
                        label: _auc_of_categories(places[mature], positive[mature])
                        for label, (mature, positive) in labels.items()
                    },
                )
        if feature.shape != "sequence":
            return
    for name, scores in ordered_scores(rows, feature):
        result = {}
        ranks_of: dict[bytes, npt.NDArray[np.float64]] = {}
        for label, (mature, positive) in labels.items():
            key = mature.tobytes()  # most labels are known on the same rows
            if key not in ranks_of:
                ranks_of[key] = ranks(scores[mature])
            result[label] = rank_auc(ranks_of[key], positive[mature])
        yield name, result


def ordered_scores(
    rows: pa.Table, feature: Feature
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yields the scores, each [rows], that a feature of ordered values gives, and their names."""
    column = rows[feature.name].combine_chunks()
    if feature.shape == "sequence":
        yield f"{feature.name}[length]", np.diff(column.offsets.to_numpy()).astype(np.float64)
    elif feature.shape == "scalar":
        yield feature.name, column.fill_null(_default(feature)).to_numpy().astype(np.float64)
    else:
        values = np.full((len(column), feature.length), float(feature.default))
        lengths = np.diff(column.offsets.to_numpy())
        fits = lengths == feature.length
        flat = column.flatten().to_numpy()[np.repeat(fits, lengths)]
        values[fits] = flat.reshape(-1, feature.length)
        for place, component in enumerate(values.T):
            name = feature.components[place] if feature.components else str(place)
            yield f"{feature.name}[{name}]", component


def _default(feature: Feature) -> int | float | bytes:
    if feature.dtype == "string":
        return str(feature.default).encode()
    return int(feature.default) if feature.dtype == "int64" else float(feature.default)


def ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the ranks of scores from 1, equal ones sharing the mean of theirs; NaN is least.

    Example:
        >>> ranks(np.array([3.0, 1.0, 3.0, 9.0]))
        array([2.5, 1. , 2.5, 4. ])
    """
    _, places, counts = np.unique(
        np.nan_to_num(scores, nan=-np.inf), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def rank_auc(ranks: npt.NDArray[np.float64], positive: Bools) -> float:
    """Returns the AUC by Mann and Whitney's U, ties counting half; both classes are needed.

    The ranks of a score serve all labels, which `cmdcm.model.metrics.auc` would sort for each.
    """
    positives = int(np.sum(positive))
    u = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(u / (positives * (len(positive) - positives)))


def _auc_of_categories(places: npt.NDArray[np.int32], positive: Bools) -> float:
    """Returns the AUC of each category's mean label."""
    counts = np.bincount(places)
    means = np.bincount(places, weights=positive, minlength=len(counts)) / np.maximum(counts, 1)
    return rank_auc(ranks(means[places]), positive)
