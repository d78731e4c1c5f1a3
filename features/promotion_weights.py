"""Weights of past promotions: how long ago they were, and how like another one.

    weight of promotion p  =  2 ** (-age / half-life)  *  exp(-distance / scale)  /  mean

`age` is in days, from start to start; only differences of it matter, so the day that it is counted
to does not. `distance` is the mean over the model's inputs of the Jensen-Shannon divergence, in
[0, 1], between their distributions in p and in the promotion `training.similar_to`; labels are not
looked at. The mean is that over the training rows, whose weights are 1 on average.

Weighting old promotions by their likeness to a coming one is a part of HDR, Historical Data Reuse
(Chan et al., KDD 2023; `model/hdr.py`), which retrieves single days and learns the weights; the
distance is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from absl import logging

from cmdcm.core.config import TrainingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import DAY_MS
from cmdcm.features.column_view import ColumnView, column_views
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.distributions import jensen_shannon, length_columns, pairs
from cmdcm.features.plan import STATISTICS
from cmdcm.features.shards import Shards
from cmdcm.features.spec import FeatureSpec

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, ColumnView]


@dataclass(frozen=True)
class PromotionWeights:
    """A weight for each promotion that is trained on.

    Attributes:
        names: The promotions, in the order of time.
        starts_ms: int64 [promotions], when their pre-promotion windows open, UTC ms.
        rows: int64 [promotions], training rows of each.
        weights: float64 [promotions]; the mean over the rows is 1.
    """

    names: tuple[str, ...]
    starts_ms: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    weights: Floats

    def of(self, click_time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the weight of each click's promotion, float32 [rows]."""
        place = np.searchsorted(self.starts_ms, click_time_ms, side="right") - 1
        return self.weights.astype(np.float32)[np.maximum(place, 0)]

    def describe(self) -> dict[str, float]:
        """Returns the weights by promotion."""
        return dict(zip(self.names, self.weights.tolist(), strict=True))

    def effective_rows(self) -> float:
        """Returns how many rows of equal weights say as much, (sum w)^2 / sum w^2 (Kish)."""
        return float(np.sum(self.rows * self.weights) ** 2 / np.sum(self.rows * self.weights**2))


def promotion_weights(data: ExampleSet, config: TrainingConfig) -> PromotionWeights | None:
    """Returns the weights of the promotions that `data` trains on; None if none are asked for.

    Raises:
        ConfigError: There are no examples of `training.similar_to`.
        DataError: The examples have no statistics by promotion.
    """
    if not (config.recency_half_life_days or config.similarity_scale):
        return None
    days = data.manifest["days"]
    rows: dict[str, int] = {}
    for day in data.split.train:
        rows[days[day]["promotion"]] = rows.get(days[day]["promotion"], 0) + days[day]["rows"]
    promotions = sorted(map(data.calendar.get, rows), key=lambda p: p.pre_promotion_start_ms)
    names = tuple(promotion.name for promotion in promotions)
    logs = np.zeros(len(names))
    if config.recency_half_life_days:
        starts = np.array([promotion.promotion_start_ms for promotion in promotions])
        logs += log_recency(starts, config.recency_half_life_days)
    if config.similarity_scale:
        reference = config.similar_to or days[data.split.validation[-1]]["promotion"]
        logs -= np.array(distances(data, names, reference)) / config.similarity_scale
    counts = np.array([rows[name] for name in names])
    opening = np.array([promotion.pre_promotion_start_ms for promotion in promotions])
    result = PromotionWeights(names, opening, counts, normalised(logs, counts))
    logging.info(
        "weights of promotions: %s; %d rows say as much as %d of equal weights",
        ", ".join(f"{name} {weight:.3g}" for name, weight in result.describe().items()),
        counts.sum(),
        result.effective_rows(),
    )
    return result


def log_recency(starts_ms: npt.NDArray[np.int64], half_life_days: float) -> Floats:
    """Returns the logarithm of each promotion's weight by time, 0 for the last one.

    Example:
        >>> np.exp(log_recency(np.array([0, 60, 90]) * DAY_MS, 30.0)).round(6).tolist()
        [0.125, 0.5, 1.0]
    """
    ages = (starts_ms.max() - starts_ms) / DAY_MS
    return np.asarray(-np.log(2.0) * ages / half_life_days)


def normalised(log_weights: Floats, rows: npt.NDArray[np.int64]) -> Floats:
    """Returns the weights whose mean over the rows is 1.

    Example:
        >>> normalised(np.log([1.0, 3.0]), np.array([100, 100])).round(6).tolist()
        [0.5, 1.5]
    """
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights * rows.sum() / np.sum(weights * rows))


def distances(data: ExampleSet, names: Sequence[str], reference: str) -> list[float]:
    """Returns how unlike each promotion's inputs are to those of the promotion `reference`.

    Raises:
        ConfigError: There are no examples of `reference`.
        DataError: The examples have no statistics by promotion.
    """
    statistics = Shards.load(data.directory / STATISTICS, data.spec).statistics
    if reference not in statistics:
        raise ConfigError(
            f"training.similar_to: no examples of the promotion {reference!r}; there are "
            f"{sorted(statistics)}"
        )
    views = {name: column_views(statistics[name].proto()) for name in {*names, reference}}
    return [distance(data.spec, views[name], views[reference]) for name in names]


def distance(spec: FeatureSpec, first: Columns, second: Columns) -> float:
    """Returns the mean divergence of the inputs, in [0, 1]; 0 for equal distributions alone.

    Each feature counts once, whatever the number of its components. One without values on either
    side is left out.
    """
    with_lengths = length_columns(spec)
    means = []
    for feature in spec.inputs:
        name = feature.name
        found = pairs(feature, first[name], second[name], lengths=name in with_lengths)
        # In one order, so that each process makes the very same sum.
        parts = {p.name: jensen_shannon(p.first, p.second) for p in found if p.count}
        if parts:
            means.append(float(np.mean([parts[part] for part in sorted(parts)])))
    return float(np.mean(means)) if means else 0.0
