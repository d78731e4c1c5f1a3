"""User-clustered bootstrap with Poisson weights, for every metric and for paired differences.

Clicks of one user are not independent, so users are drawn and not rows: in each replicate a user
counts Poisson(1) times, with all of their rows (Chamandy et al., "Estimating uncertainty for
massive data streams", 2012). Two models scored on the same rows share the draws, so a difference of
their replicates is a paired one.

`UserBootstrap` holds all rows and is exact. `cmdcm.model.streaming.MetricStream` adds chunks of
rows up, with the same draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from cmdcm.core.errors import DataError
from cmdcm.features.hashing import UInt64s
from cmdcm.model import metrics
from cmdcm.model.draws import user_keys
from cmdcm.model.metrics import Array, CalibrationBins
from cmdcm.model.replicate_sums import (
    NEGATIVES,
    POSITIVES,
    PREDICTED,
    ReplicateSums,
    exact_sums,
    user_sums,
)

DEFINED_SHARE = 0.95
"""A metric gets an interval when at least this share of the replicates defines it."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval; None where not defined."""

    estimate: float | None
    lower: float | None
    upper: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.lower is not None and self.upper is not None and self.lower * self.upper > 0

    def to_json(self) -> dict[str, float | None]:
        """Returns the three numbers by name."""
        return {"estimate": self.estimate, "lower": self.lower, "upper": self.upper}


@dataclass(frozen=True)
class Replicated:
    """The metrics of one set of predictions, and their bootstrap replicates.

    Attributes:
        estimates: Metric -> value on the rows themselves.
        replicates: Metric -> [replicates], NaN where a replicate does not define the metric.
        bins: The calibration curve.
        bin_rates: [bins, replicates] observed rate in each of the curve's bins.
    """

    estimates: Mapping[str, float | None]
    replicates: Mapping[str, Array]
    bins: CalibrationBins
    bin_rates: Array


class Bootstrap:
    """Intervals and tests from replicates.

    Args:
        replicates: Bootstrap replicates.
        seed: Equal seeds draw equal users, whatever the rows, their order and their chunks are.
        confidence: Level of the intervals.
    """

    def __init__(self, replicates: int, seed: int, confidence: float = 0.95) -> None:
        self.replicates = replicates
        self.seed = seed
        self.confidence = confidence

    def interval(self, estimate: float | None, replicates: Array) -> Interval:
        """Percentile interval of the replicates; bounds are None when too few are defined."""
        defined = replicates[np.isfinite(replicates)]
        if estimate is None or len(defined) < max(1.0, DEFINED_SHARE * len(replicates)):
            return Interval(estimate, None, None)
        tail = (1 - self.confidence) / 2
        lower, upper = np.quantile(defined, (tail, 1 - tail))
        return Interval(estimate, float(lower), float(upper))

    def intervals(self, of: Replicated) -> dict[str, Interval]:
        """Returns the interval of every metric.

        All are percentile intervals but that of ECE: resampling adds noise to every bin, and the
        replicates' ECE lies above the sample's as much as that lies above the truth. Its interval
        is therefore reflected (the "basic" bootstrap interval), cut at zero, and widened to hold
        the sample's ECE where that lies above it.
        """
        result = {
            name: self.interval(of.estimates[name], replicates)
            for name, replicates in of.replicates.items()
        }
        error = result["ece"]
        if error.estimate is not None and error.lower is not None and error.upper is not None:
            result["ece"] = Interval(
                error.estimate,
                max(0.0, 2 * error.estimate - error.upper),
                max(error.estimate, 2 * error.estimate - error.lower),
            )
        return result

    def difference(self, of: Replicated, to: Replicated, metric: str) -> Interval:
        """Returns the paired difference `of - to` in a metric; both from this bootstrap."""
        a, b = of.estimates[metric], to.estimates[metric]
        return self.interval(
            None if a is None or b is None else a - b,
            of.replicates[metric] - to.replicates[metric],
        )

    def p_value(self, of: Replicated, to: Replicated, metric: str) -> float | None:
        """Returns the two-sided p-value of no paired difference in a metric.

        It takes the difference over the deviation of its replicates as normal: unlike a count of
        replicates, that has no floor of 1 / replicates, which a correction for many comparisons
        would never pass. None where the difference has no interval.
        """
        difference = self.difference(of, to, metric)
        if difference.estimate is None or difference.lower is None:
            return None
        error = float(np.nanstd(of.replicates[metric] - to.replicates[metric], ddof=1))
        if error == 0:  # equal predictions
            return 1.0 if difference.estimate == 0 else None
        return 2 * NormalDist().cdf(-abs(difference.estimate) / error)


class UserBootstrap(Bootstrap):
    """Draws of users, shared by everything that is computed on one set of rows.

    Args:
        user_ids: [rows] the user of each row, int64 or strings.
        replicates: Bootstrap replicates.
        seed: Equal seeds draw equal users, whatever the rows and their order are.
        confidence: Level of the intervals.

    Attributes:
        users: Number of distinct users.

    Memory is eight bytes for each row.

    Raises:
        DataError: User ids of another type.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> users, p = np.repeat(np.arange(500), 2), random.random(1000)
        >>> boot = UserBootstrap(users, replicates=200, seed=1)
        >>> pcoc = boot.intervals(boot.metrics(random.random(1000) < p, p))["pcoc"]
        >>> pcoc.lower < 1 < pcoc.upper
        True
    """

    def __init__(
        self, user_ids: npt.ArrayLike, replicates: int, seed: int, confidence: float = 0.95
    ) -> None:
        super().__init__(replicates, seed, confidence)
        self._keys = user_keys(user_ids, seed)
        self.users = len(np.unique(self._keys))

    def metrics(
        self,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        bins: int = 10,
        weights: npt.ArrayLike | None = None,
        rows: npt.NDArray[np.bool_] | None = None,
    ) -> Replicated:
        """Computes every metric of `metrics.METRICS` with its replicates; GAUC is by user.

        Args:
            labels: [rows] 0 or 1.
            probabilities: [rows] in [0, 1].
            bins: Bins of the calibration curve; their borders are those of the rows themselves.
            weights: [rows] >= 0, or None for 1 each.
            rows: [rows] mask of the rows to use, or None for all.

        Raises:
            DataError: Rows that are not those of the user ids, or what `metrics.checked` and
                `metrics.row_log_loss` refuse.
        """
        p = np.asarray(probabilities)
        y, scores, w = metrics.checked(labels, p, weights)
        keys = self._keys
        if len(y) != len(keys):
            raise DataError(
                f"labels, probabilities and weights should have {len(keys)} rows, one for each "
                f"user id. Received: {len(y)}"
            )
        if rows is not None:
            y, p, scores, w, keys = y[rows], p[rows], scores[rows], w[rows], keys[rows]
        losses = metrics.row_log_loss(y, p)
        index = metrics.equal_mass_bins(scores, bins, w)
        order = np.argsort(-scores, kind="stable")
        sums = exact_sums(
            keys[order],
            y[order] > 0,
            scores[order],
            w[order],
            losses[order],
            index[order],
            int(index.max()) + 1 if len(index) else 0,
            self.replicates,
        )
        return replicated(sums, gauc_sums(y, scores, keys, w, self.replicates))

    def sums(
        self,
        values: npt.ArrayLike,
        places: npt.NDArray[np.int64] | None = None,
        groups: npt.NDArray[np.int64] | None = None,
    ) -> Array:
        """Sums columns by group in every replicate, from which ratios and the like follow.

        Args:
            values: [n, columns].
            places: [n] each value's row among the bootstrap's, or None for all rows in order.
            groups: [n] group of each value, 0 or more; or None for a single one.

        Returns:
            [groups, columns, replicates].
        """
        columns = np.ascontiguousarray(values, np.float64)
        keys = self._keys if places is None else self._keys[places]
        group = np.zeros(len(keys), np.int64) if groups is None else groups
        count = int(group.max()) + 1 if len(group) else 1
        return user_sums(keys, columns, group, count, self.replicates)[:, :, 1:]


def gauc_sums(y: Array, p: Array, keys: UInt64s, w: Array, replicates: int) -> Array:
    """[2, 1 + replicates] weighted sum of the users' AUCs, and their weights.

    A draw repeats a user's AUC and never changes it, so GAUC is a ratio of sums over users.
    """
    within = metrics.group_aucs(y, p, keys, w)
    values = np.stack([within.auc * within.weight, within.weight], axis=1)
    return user_sums(within.group, values, np.zeros(len(values), np.int64), 1, replicates)[0]


def replicated(sums: ReplicateSums, gauc: Array) -> Replicated:
    """Returns the metrics of `sums`, with GAUC from `gauc_sums`."""
    positives, negatives, predicted = (
        sums.bins[:, place] for place in (POSITIVES, NEGATIVES, PREDICTED)
    )
    positive, negative = positives.sum(axis=0), negatives.sum(axis=0)
    total = positive + negative
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = positive / total
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        values = {
            "auc": 1 - sums.pairs / (positive * negative),
            "pr_auc": sums.precision / positive,
            "gauc": gauc[0] / gauc[1],
            "log_loss": sums.loss / total,
            "normalised_entropy": sums.loss / total / entropy,
            "pcoc": predicted.sum(axis=0) / positive,
            "ece": np.abs(predicted - positives).sum(axis=0) / total,
        }
        mass = positives + negatives
        rates, means = positives / mass, predicted[:, 0] / mass[:, 0]
    held = mass[:, 0] > 0
    return Replicated(
        {name: float(v[0]) if np.isfinite(v[0]) else None for name, v in values.items()},
        {name: np.where(np.isfinite(v), v, np.nan)[1:] for name, v in values.items()},
        CalibrationBins(mass[held, 0], means[held], rates[held, 0]),
        rates[held, 1:],
    )
