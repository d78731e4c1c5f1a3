"""Metrics of predicted probabilities, exact and with optional row weights.

A weight of k counts a row k times, in every metric. A metric that the rows do not define (AUC
without a positive, PCOC without a conversion) is None, never NaN: the caller has to decide what to
show. `docs/evaluation.md` says how to read each of them.

These are the definitions, one metric at a time. `cmdcm.model.bootstrap` computes all of them in all
replicates in one pass, and is tested against them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cmdcm.core.errors import DataError

Array = npt.NDArray[np.float64]
Weighting = Literal["rows", "uniform"]

METRICS = ("auc", "pr_auc", "gauc", "log_loss", "normalised_entropy", "pcoc", "ece")
"""Names of the metrics, in the order in which `summary` returns them."""


@dataclass(frozen=True)
class CalibrationBins:
    """Bins of rows with like predictions, from the lowest to the highest; each array is [bins].

    Attributes:
        weight: Sum of the row weights; never zero.
        mean_prediction: Mean predicted probability.
        mean_label: Observed rate.
    """

    weight: Array
    mean_prediction: Array
    mean_label: Array


@dataclass(frozen=True)
class GroupAucs:
    """AUC within each group of rows that holds both classes; each array is [groups].

    Attributes:
        group: The groups' keys, sorted.
        auc: AUC of the group's rows.
        weight: Sum of the group's row weights.
    """

    group: npt.NDArray
    auc: Array
    weight: Array


def auc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count half.

    Args:
        labels: [rows] 0 or 1.
        scores: [rows] finite; the order alone matters.
        weights: [rows] >= 0, or None for 1 each.

    Returns:
        The AUC, or None when all rows are of one class.

    Raises:
        DataError: Lengths differ, a label is not 0 or 1, a score is not finite, or a weight is
            negative. All metrics of this file check the same.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
        0.875
    """
    y, s, w = checked(labels, scores, weights)
    within = _group_aucs(y, s, np.zeros(len(y), np.int8), w)
    return float(within.auc[0]) if len(within.auc) else None


def pr_auc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Area under the precision-recall curve as average precision: sum of (R_k - R_k-1) P_k.

    The thresholds k are the distinct scores, from the highest; nothing is interpolated, so the
    value of a constant predictor is the base rate.

    Returns:
        The average precision, or None without a positive.

    Example:
        >>> pr_auc([0, 1, 1], [0.5, 0.5, 0.5])
        0.6666666666666666
    """
    y, s, w = checked(labels, scores, weights)
    order = np.argsort(-s, kind="stable")
    y, s, w = y[order], s[order], w[order]
    starts = np.flatnonzero(np.r_[True, s[1:] != s[:-1]][: len(s)])
    positives = _block_sums(w * y, starts)
    negatives = _block_sums(w * (1 - y), starts)
    total = positives.sum()
    if not total > 0:
        return None
    held = positives > 0
    precision = np.cumsum(positives)[held] / (np.cumsum(positives) + np.cumsum(negatives))[held]
    return float(np.sum(positives[held] * precision) / total)


def group_aucs(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> GroupAucs:
    """AUC of each group (say, each user) that holds both classes; the others are skipped."""
    y, s, w = checked(labels, scores, weights)
    keys = np.asarray(groups)
    if keys.shape != y.shape:
        raise DataError(f"groups should have shape {y.shape}. Received: {keys.shape}")
    return _group_aucs(y, s, keys, w)


def gauc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    weighting: Weighting = "rows",
) -> float | None:
    """Group AUC: the mean of the groups' AUCs; groups of a single class are skipped.

    Args:
        labels: [rows] 0 or 1.
        scores: [rows] finite.
        groups: [rows] key of each row's group, usually the user.
        weights: [rows] >= 0, or None for 1 each.
        weighting: `rows` weights a group by its rows (as in Zhu et al., KDD 2017, who weight by
            impressions); `uniform` weights all groups alike.

    Returns:
        The GAUC, or None when no group holds both classes.
    """
    within = group_aucs(labels, scores, groups, weights)
    if not len(within.auc):
        return None
    return float(np.average(within.auc, weights=within.weight if weighting == "rows" else None))


def row_log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Array:
    """Log loss of each row in nats, -log P(label).

    Probabilities are clipped only at the limits of their own floating-point type (for float32 to
    [1.2e-38, 1 - 6e-8]), where a rounded 0 or 1 stands for everything nearer to it: a confident
    wrong prediction costs up to 87, and nothing else is changed.
    """
    y, p, _ = checked(labels, probabilities, None)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise DataError(
            f"probabilities should lie in [0, 1]. Received: {p.min():.6g} to {p.max():.6g}"
        )
    given = np.asarray(probabilities).dtype
    limits = np.finfo(given if given in (np.float16, np.float32) else np.float64)
    p = np.clip(p, float(limits.smallest_normal), 1 - float(limits.epsneg))
    return -np.where(y > 0, np.log(p), np.log1p(-p))


def log_loss(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Mean log loss (binary cross-entropy) in nats; None without rows. See `row_log_loss`.

    Example:
        >>> round(log_loss([0, 1], [0.5, 0.5]), 4)
        0.6931
    """
    _, _, w = checked(labels, probabilities, weights)
    return _mean(row_log_loss(labels, probabilities), w)


def normalised_entropy(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Log loss divided by the entropy of the base rate (He et al., ADKDD 2014).

    1 is the best constant prediction and 0 a perfect one, whatever the base rate; None when all
    rows are of one class.
    """
    y, _, w = checked(labels, probabilities, weights)
    rate = _mean(y, w)
    if rate is None or not 0 < rate < 1:
        return None
    loss = log_loss(labels, probabilities, weights)
    return None if loss is None else loss / entropy(rate)


def entropy(rate: float) -> float:
    """Entropy in nats of a label that is 1 with probability `rate`, 0 < rate < 1."""
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def pcoc(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Predicted clicks over clicks, here conversions: sum(prediction) / sum(label).

    1 is calibrated on the whole, above 1 predicts too much; None without a positive.
    """
    y, p, w = checked(labels, probabilities, weights)
    positives = float(np.sum(w * y))
    return float(np.sum(w * p)) / positives if positives > 0 else None


def equal_mass_bins(
    probabilities: npt.ArrayLike, bins: int, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Assigns each row to one of at most `bins` bins of equal weight, in the order of prediction.

    Equal predictions always share a bin (the one of their block's middle), so that neither the
    order of rows nor a repeated row decides; empty bins are left out of the numbering.

    Returns:
        [rows] bin of each row, 0 (lowest predictions) to one less than the bins that are used.
    """
    p = np.asarray(probabilities, np.float64)
    _, p, w = checked(np.zeros(p.shape), p, weights)
    values, inverse = np.unique(p, return_inverse=True)
    mass = np.bincount(inverse, weights=w, minlength=len(values))
    middle = np.cumsum(mass) - mass / 2
    if not mass.sum() > 0:
        return np.zeros(len(p), np.int64)
    # Middles are multiples of half a unit weight; the tolerance keeps rounding off the edges.
    place = np.minimum(np.floor(middle / mass.sum() * bins + 1e-9), bins - 1)
    used = np.unique(place[mass > 0])
    numbered = np.minimum(np.searchsorted(used, place), len(used) - 1)
    return numbered[inverse].astype(np.int64)


def calibration_bins(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = 10,
    weights: npt.ArrayLike | None = None,
) -> CalibrationBins:
    """Mean prediction and observed rate in equal-mass bins: the calibration curve."""
    y, p, w = checked(labels, probabilities, weights)
    index = equal_mass_bins(p, bins, w)
    count = int(index.max()) + 1 if len(index) else 0
    mass, predicted, observed = (
        np.bincount(index, weights=column, minlength=count).astype(np.float64)
        for column in (w, w * p, w * y)
    )
    held = mass > 0
    mass = mass[held]
    return CalibrationBins(mass, predicted[held] / mass, observed[held] / mass)


def ece(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = 10,
    weights: npt.ArrayLike | None = None,
) -> float | None:
    """Expected calibration error: mean |prediction - rate| over equal-mass bins; None for no rows.

    Finite bins are never exactly calibrated, so this plug-in value lies above the true one.
    """
    curve = calibration_bins(labels, probabilities, bins, weights)
    return _mean(np.abs(curve.mean_prediction - curve.mean_label), curve.weight)


def summary(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike,
    bins: int = 10,
    weights: npt.ArrayLike | None = None,
) -> dict[str, float | None]:
    """Returns every metric of `METRICS` by name; GAUC weights its groups by their rows."""
    return {
        "auc": auc(labels, probabilities, weights),
        "pr_auc": pr_auc(labels, probabilities, weights),
        "gauc": gauc(labels, probabilities, groups, weights),
        "log_loss": log_loss(labels, probabilities, weights),
        "normalised_entropy": normalised_entropy(labels, probabilities, weights),
        "pcoc": pcoc(labels, probabilities, weights),
        "ece": ece(labels, probabilities, bins, weights),
    }


def _group_aucs(y: Array, s: Array, keys: npt.NDArray, w: Array) -> GroupAucs:
    if not len(y):
        return GroupAucs(keys[:0], np.zeros(0), np.zeros(0))
    order = np.lexsort((s, keys))
    y, s, w, keys = y[order], s[order], w[order], keys[order]
    new_group = np.r_[True, keys[1:] != keys[:-1]]
    new_block = new_group | np.r_[True, s[1:] != s[:-1]]
    blocks = np.flatnonzero(new_block)  # runs of one score within one group
    groups = np.flatnonzero(new_group[blocks])  # first block of each group
    positives, negatives = _block_sums(w * y, blocks), _block_sums(w * (1 - y), blocks)
    below = np.cumsum(negatives) - negatives
    below -= np.repeat(below[groups], np.diff(np.r_[groups, len(blocks)]))
    area = _block_sums(positives * (below + negatives / 2), groups)
    p, n = _block_sums(positives, groups), _block_sums(negatives, groups)
    both = (p > 0) & (n > 0)
    return GroupAucs(
        keys[blocks[groups]][both], area[both] / (p[both] * n[both]), p[both] + n[both]
    )


def _block_sums(values: Array, starts: npt.NDArray[np.int64]) -> Array:
    return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)


def _mean(values: Array, weights: Array) -> float | None:
    total = weights.sum()
    return float(np.sum(weights * values) / total) if total > 0 else None


def checked(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Returns labels, scores and weights as float64; the checks that all metrics share.

    Raises:
        DataError: Lengths differ, a label is not 0 or 1, a score is not finite, or a weight is
            negative.
    """
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, np.float64)
    if y.ndim != 1 or s.shape != y.shape or w.shape != y.shape:
        raise DataError(
            "labels, scores and weights should be vectors of one length. "
            f"Received: {y.shape}, {s.shape}, {w.shape}"
        )
    if not ((y == 0) | (y == 1)).all():
        raise DataError(f"labels should be 0 or 1. Received: {np.unique(y)[:5].tolist()}")
    if not np.isfinite(s).all():
        raise DataError(f"scores should be finite. Received: {np.sum(~np.isfinite(s))} that aren't")
    if not (np.isfinite(w).all() and (w >= 0).all()):
        raise DataError("weights should be finite and at least 0")
    return y, s, w
