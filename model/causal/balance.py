"""Covariate balance: whether inverse weights make carted and uncarted clicks alike.

The standardised mean difference of a covariate is

    (mean over carted - mean over uncarted) / sqrt((variance of carted + variance of uncarted) / 2)

before weighting, and with weighted means over the same denominator after it (Austin 2009). Values
above 0.1 in size are usually called imbalanced.

The moments are summed batch by batch while a data set is scored: memory does not depend on rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.causal.rows import ARMS
from cmdcm.model.metrics import Array

ENCODINGS = ("log1p", "raw")
"""Encodings of the numeric inputs; a covariate is compared as the network reads it."""


class Balance:
    """Running moments of the numeric inputs by arm, over the clicks without a direct purchase.

    Args:
        spec: The features of the examples.
        names: Inputs to compare, scalars or vectors encoded as `ENCODINGS`; empty for all of them.
        clip: Lower bound of P(arm | x) in the weights.

    Raises:
        ConfigError: A name that is no such input.
    """

    def __init__(self, spec: FeatureSpec, names: Sequence[str], clip: float) -> None:
        able = [f for f in spec.inputs if f.encoding in ENCODINGS and f.shape != "sequence"]
        unknown = sorted(set(names) - {f.name for f in able})
        if unknown:
            raise ConfigError(
                f"evaluation.balance_covariates: {unknown} are no numeric scalars or vectors; "
                f"there are {[f.name for f in able]}"
            )
        self.features = [f for f in able if not names or f.name in names]
        self.covariates = [name for f in self.features for name in _components(f)]
        self.clip = clip
        size = len(self.covariates)
        # Moments of values less an origin near their mean, so that squares do not cancel.
        self._origin: Array | None = None
        self._totals = dict.fromkeys(ARMS, 0.0)
        self._weights = dict.fromkeys(ARMS, 0.0)
        self._sums = {arm: np.zeros((3, size)) for arm in ARMS}

    def add(self, batch: Mapping[str, tf.Tensor], scores: Mapping[str, tf.Tensor]) -> None:
        """Adds a batch of examples with labels and its scores; one without propensity is passed.

        Args:
            batch: The examples' columns, `direct` and `cart` among them.
            scores: The model's outputs, [batch] each.
        """
        if "propensity" not in scores or not self.features:
            return
        kept = batch["direct"].numpy() == 0
        if not kept.any():
            return
        values = np.concatenate(
            [_encoded(f, batch[f.name].numpy()[kept]) for f in self.features], 1
        )
        if self._origin is None:
            self._origin = values.mean(axis=0)
        values -= self._origin
        carted = batch["cart"].numpy()[kept] > 0
        propensity = scores["propensity"].numpy()[kept].astype(np.float64)
        for arm, inside, probability in (
            ("1", carted, propensity),
            ("0", ~carted, 1 - propensity),
        ):
            x, weights = values[inside], 1 / np.maximum(probability[inside], self.clip)
            self._totals[arm] += len(x)
            self._weights[arm] += float(weights.sum())
            self._sums[arm] += np.stack([x.sum(axis=0), np.square(x).sum(axis=0), weights @ x])

    def result(self) -> list[dict[str, Any]]:
        """Returns `covariate`, `before` and `after` of each, the largest |before| first.

        A covariate that does not vary has the value None; without rows in both arms the list is
        empty.
        """
        if not all(self._totals.values()):
            return []
        mean, variance, weighted = {}, {}, {}
        for arm in ARMS:
            sums, squares, weighted_sums = self._sums[arm]
            mean[arm] = sums / self._totals[arm]
            variance[arm] = np.maximum(squares / self._totals[arm] - mean[arm] ** 2, 0)
            weighted[arm] = weighted_sums / self._weights[arm]
        scale = np.sqrt((variance["1"] + variance["0"]) / 2)
        entries = []
        for place, covariate in enumerate(self.covariates):
            before, after = (
                float((m["1"][place] - m["0"][place]) / scale[place])
                if scale[place] > 1e-6
                else None
                for m in (mean, weighted)
            )
            entries.append({"covariate": covariate, "before": before, "after": after})
        return sorted(entries, key=lambda e: -abs(e["before"] or 0))


def _components(feature: Feature) -> list[str]:
    if feature.shape == "scalar":
        return [feature.name]
    names = feature.components or [str(place) for place in range(feature.length)]
    return [f"{feature.name}.{name}" for name in names]


def _encoded(feature: Feature, values: np.ndarray) -> Array:
    """[rows, components] as the network reads them, before standardisation."""
    columns = values.reshape(len(values), -1).astype(np.float64)
    return np.log1p(np.maximum(columns, 0)) if feature.encoding == "log1p" else columns
