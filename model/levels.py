"""The level of each kind of promotion, from all days whose labels are known.

A logit's map is fitted to one promotion, the last one before the test, but the next may be of
another kind: after a click before Double 12 much less is bought than before Double 11. A network
that sees some tens of delayed purchases does not learn how much less, not even on the rows that it
was trained on. So each calibrated logit gets a shift by the promotion's kind k. Promotions
j = 1, ..., J, the last of them that of the calibration days, have levels of two parts, and s_k is
served:

    logit = map(z) + l_j + b_k(j) + g [the row was trained on]      s_k = l_J + b_k
    l_J ~ N(0, 1)    l_j - l_j+1 ~ N(0, step^2)    b_k ~ N(0, kind^2)    g ~ N(0, 0.1^2)

That is a random walk with a season (Harvey, Forecasting, Structural Time Series Models and the
Kalman Filter, 1989): kinds are told apart by promotions that follow each other, so that what
changes over the years does not count for a kind, and the last level is that of the calibration
days. step and kind are those of `DEVIATIONS` with the largest evidence, in Laplace's approximation
(empirical Bayes: Morris, JASA 1983): promotions that differ without regard to their kind leave the
kinds' parts near zero. g is what a network has over its own rows, and is not served. A kind that no
promotion had is served l_J.
"""

from itertools import product

import numpy as np
import numpy.typing as npt

from cmdcm.model.causal.targeting import expit
from cmdcm.model.metrics import Array

KIND = "promotion_kind"
"""The input that says which kind of promotion is coming."""

PROMOTION = "promotion"
"""The examples' column with the name of the promotion."""

ROWS = 200_000
"""Training rows that are read; a thousand positives give a level to 3 %."""

DEVIATIONS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""What step and kind may be: from a twentieth to a factor of two."""

_LAST, _SEEN = 1.0, 0.1
_STEPS = 100


def kind_levels(
    logits: Array,
    labels: Array,
    promotions: npt.NDArray[np.int64],
    seen: npt.NDArray[np.bool_],
    kinds: npt.NDArray[np.int64],
    count: int,
) -> Array:
    """Returns the shift of each kind of promotion, [count]; see the module.

    Args:
        logits: [N], mapped by the calibration.
        labels: [N], 0 or 1.
        promotions: [N], which promotion a row belongs to, by time.
        seen: [N], whether the model was trained on the row.
        kinds: [promotions], each one's kind, below `count`.
        count: Number of kinds.

    Example:
        In two years only half of what is predicted was bought in promotions of kind 1; of kind 2
        nothing is known:

        >>> labels = np.tile([1.0, 0, 0, 0], 1000)
        >>> promotions = np.repeat([0, 1, 2, 3], 1000)
        >>> labels[np.isin(promotions, [0, 2]) & (np.arange(4000) % 8 == 0)] = 0
        >>> seen = promotions < 3
        >>> logits = np.full(4000, np.log(1 / 3))
        >>> kind_levels(logits, labels, promotions, seen, np.array([1, 0, 1, 0]), 3).round(1) + 0.0
        array([ 0. , -0.8, -0.3])
    """
    number = len(kinds)
    # Row j of the design is promotion j's rows that were not trained on, row J + j those that were.
    level = np.hstack([np.eye(number), np.eye(count)[kinds]])
    own = np.repeat([[0.0], [1.0]], number, axis=0)
    design = np.hstack([np.tile(level, (2, 1)), own])
    cells = promotions + number * seen
    shifts, evidences = [], []
    for step, kind in product(DEVIATIONS, DEVIATIONS):
        prior = _prior(number, count, step, kind)
        beta, evidence = _fit(logits, labels, cells, design, prior)
        shifts.append(beta[number - 1] + beta[number : number + count])
        evidences.append(evidence)
    weights = np.exp(np.array(evidences) - max(evidences))
    return np.asarray(weights / weights.sum() @ np.array(shifts))


def _prior(number: int, count: int, step: float, kind: float) -> Array:
    """The precision of the promotions' levels, the kinds' parts and g, in this order."""
    precision = np.zeros((number + count + 1,) * 2)
    moves = np.diff(np.eye(number), axis=0)
    precision[:number, :number] = moves.T @ moves / step**2
    precision[number - 1, number - 1] += 1 / _LAST**2
    own = np.arange(number, number + count)
    precision[own, own] = 1 / kind**2
    precision[-1, -1] = 1 / _SEEN**2
    return precision


def _fit(
    logits: Array,
    labels: Array,
    cells: npt.NDArray[np.int64],
    design: Array,
    prior: Array,
) -> tuple[Array, float]:
    """The largest posterior by Newton steps, and the log of its evidence by Laplace."""
    beta = np.zeros(len(prior))
    curvature = prior
    for _ in range(_STEPS):
        p = expit(logits + (design @ beta)[cells])
        excess = np.bincount(cells, weights=p - labels, minlength=len(design))
        information = np.bincount(cells, weights=p * (1 - p), minlength=len(design))
        curvature = (design * information[:, None]).T @ design + prior
        step = np.linalg.solve(curvature, design.T @ excess + prior @ beta)
        beta -= step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-8:
            break
    z = logits + (design @ beta)[cells]
    likelihood = np.sum(labels * z - np.logaddexp(0, z))
    shape = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(curvature)[1]
    return beta, float(likelihood - beta @ prior @ beta / 2 + shape / 2)
