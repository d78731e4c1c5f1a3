"""Bounds of E[L(a)] under hidden confounding: the marginal sensitivity model of carting.

Let e(x) = P(A = 1 | x) be the nominal propensity and e(x, l) that of clicks whose potential outcome
L(a) is l. The model (Tan 2006) bounds their odds ratio by Lambda >= 1,

    1 / Lambda <= [e(x) / (1 - e(x))] / [e(x, l) / (1 - e(x, l))] <= Lambda,

so that a click of arm a, with p = P(a | x), weighs 1 + z (1 - p) / p for some z in [1 / Lambda,
Lambda]; Lambda = 1 is ignorability. Two ways to bound the arm's mean:

`hajek` (Zhao, Small and Bhattacharya 2019): the stabilised mean

    sum_i (1 + z_i (1 - p_i) / p_i) y_i / sum_i (1 + z_i (1 - p_i) / p_i)

is extreme where z is Lambda on one side of a threshold of y and 1 / Lambda on the other: a linear
fractional programme, solved by sorting. It needs e alone, and is not the narrowest: it does not use
that the true weights must balance x.

`sharp` (Dorn and Guo 2023; its doubly robust form Dorn, Guo and Kallus 2021): with r = P(L | a, x),
the other arm's clicks at x have a mean of L(a) between max(r / Lambda, 1 - Lambda (1 - r)) and
min(Lambda r, 1 - (1 - r) / Lambda), and both are reached. Averaging over x, with one of the two
terms chosen for all clicks of like r,

    sum over A = a of L  +  sum over bins of  Lambda m_b  or  n_b - (n_b - m_b) / Lambda

where n_b counts the other arm's clicks in the bin and m_b estimates their sum of r by
sum over A != a of r + sum over A = a of (1 - p) / p (L - r), right where either e or r is. The
choice of terms (Lambda r is the smaller where r < 1 / (1 + Lambda)) costs width where it is wrong,
never validity. For targeted r the bounds open from the targeted average.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdcm.model.bootstrap import UserBootstrap
from cmdcm.model.metrics import Array, equal_mass_bins

METHODS = ("sharp", "hajek")

_BINS = 64  # of r; the two terms of a bound are equal where the choice changes


@dataclass(frozen=True)
class HajekMean:
    """Sums over an arm's rows up to each threshold, the rows of the highest y first.

    Arrays are [..., thresholds], the first of them 0, the last the sum over all rows.

    Attributes:
        count: Of 1.
        count_y: Of y.
        odds: Of (1 - p) / p.
        odds_y: Of y (1 - p) / p.
    """

    count: Array
    count_y: Array
    odds: Array
    odds_y: Array

    def bounds(self, lam: float) -> tuple[Array, Array]:
        """Returns the smallest and the largest mean for Lambda = `lam`, [...]; NaN for no row."""
        with np.errstate(invalid="ignore"):
            return (
                np.min(self._means(1 / lam, lam), axis=-1),
                np.max(self._means(lam, 1 / lam), axis=-1),
            )

    def _means(self, above: float, below: float) -> Array:
        """[..., thresholds] means with z = `above` before each threshold and `below` after it."""

        def total(count: Array, odds: Array) -> Array:
            return count[..., -1:] + above * odds + below * (odds[..., -1:] - odds)

        return total(self.count_y, self.odds_y) / total(self.count, self.odds)


@dataclass(frozen=True)
class SharpMean:
    """Sums by bin of r, of all rows that the mean is taken over.

    Attributes:
        level: [bins] mean r of the bin.
        own: [bins, ...] sum of L over the arm.
        others: [bins, ...] rows of the other arm.
        transported: [bins, ...] their estimated sum of r.
        rows: [...] rows of both arms.
    """

    level: Array
    own: Array
    others: Array
    transported: Array
    rows: Array

    def bounds(self, lam: float) -> tuple[Array, Array]:
        """Returns the lower and the upper bound for Lambda = `lam`, [...]; NaN for no row."""
        return self._bound(1 / lam), self._bound(lam)

    def _bound(self, ratio: float) -> Array:
        """The mean if the other arm's odds of being of its arm rise by `ratio` where L(a) = 1."""
        level = self.level.reshape(-1, *[1] * (self.own.ndim - 1))
        missing = self.others - (self.others - self.transported) / ratio
        other = np.where(level < 1 / (1 + ratio), ratio * self.transported, missing)
        with np.errstate(invalid="ignore"):
            return np.clip((self.own + other).sum(axis=0) / self.rows, 0, 1)


def hajek_mean(y: Array, probability: Array) -> HajekMean:
    """Sorts an arm's rows.

    Args:
        y: [rows of the arm] outcomes.
        probability: [rows of the arm] P(arm | x) > 0.

    Example:
        >>> import numpy as np
        >>> mean = hajek_mean(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
        >>> [float(round(bound, 4)) for bound in mean.bounds(2.0)]  # (1 + 1/2) / (1 + 1/2 + 1 + 2)
        [0.3333, 0.6667]
    """
    order = np.argsort(-y, kind="stable")
    return _prefixes(_hajek_terms(y, probability)[order])


def replicated_hajek(
    labels: Array, probability: Array, places: npt.NDArray[np.int64], boot: UserBootstrap
) -> HajekMean:
    """The means of rows (first) and of each replicate; labels are 0 or 1, two groups to sort.

    Args:
        labels: [rows of the arm].
        probability: [rows of the arm] P(arm | x) > 0.
        places: [rows of the arm] their places among the bootstrap's rows.
        boot: Draws of users.
    """
    groups = np.where(labels > 0, 0, 1)
    sums = _with_rows(_hajek_terms(labels, probability), places, groups, 2, boot)
    return _prefixes(np.moveaxis(sums, (0, 1, 2), (1, 2, 0)))


def replicated_sharp(
    labels: Array,
    outcome: Array,
    inside: npt.NDArray[np.bool_],
    probability: Array,
    places: npt.NDArray[np.int64],
    boot: UserBootstrap,
) -> SharpMean:
    """The means of rows (first) and of each replicate.

    Args:
        labels: [rows] L.
        outcome: [rows] r of the arm.
        inside: [rows] whether the click is of the arm.
        probability: [rows] P(arm | x) > 0.
        places: [rows] their places among the bootstrap's rows.
        boot: Draws of users.
    """
    groups = equal_mass_bins(outcome, _BINS)
    count = int(groups.max()) + 1
    odds = (1 - probability) / probability
    transported = np.where(inside, odds * (labels - outcome), outcome)
    terms = np.stack([inside * labels, ~inside, transported, np.ones(len(labels))], axis=-1)
    own, others, moved, rows = np.moveaxis(_with_rows(terms, places, groups, count, boot), 1, 0)
    level = np.bincount(groups, weights=outcome) / np.bincount(groups)
    return SharpMean(level, own, others, moved, rows.sum(axis=0))


def _hajek_terms(y: Array, probability: Array) -> Array:
    odds = (1 - probability) / probability
    return np.stack([np.ones(len(y)), y, odds, odds * y], axis=-1)


def _with_rows(
    terms: Array,
    places: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    count: int,
    boot: UserBootstrap,
) -> Array:
    """[groups, columns, 1 + replicates] sums by group: of the rows, then of each replicate."""
    sums = np.zeros((count, terms.shape[1], 1 + boot.replicates))
    for column in range(terms.shape[1]):
        sums[:, column, 0] = np.bincount(groups, weights=terms[:, column], minlength=count)
    replicates = boot.sums(terms, places, groups)
    sums[: len(replicates), :, 1:] = replicates
    return sums


def _prefixes(terms: Array) -> HajekMean:
    """Cumulative sums of [..., groups, 4] terms, from 0."""
    zero = np.zeros((*terms.shape[:-2], 1, 4))
    sums = np.concatenate([zero, np.cumsum(terms, axis=-2)], axis=-2)
    return HajekMean(*np.moveaxis(sums, -1, 0))
