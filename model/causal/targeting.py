"""Held-out targeting: averages of potential outcomes that either of two nuisances makes right.

The mean of a trained head r_a over some clicks inherits the head's bias there. Targeting (van der
Laan and Rubin, "Targeted maximum likelihood learning", 2006) corrects it by one intercept an arm,

    sum_i w_i (L_i - r*_i) = 0,   r*_i = expit(logit r_i + eps),   w_i = 1[A_i = a] h_i / P(a | x_i)

and reports sum t_i r*_i / sum t_i, where h, and with it the target t, is the population:

    all         h = 1           t = 1             average effect (ATE)
    carted      h = e           t = A             effect on the carted (ATT)
    uncarted    h = 1 - e       t = 1 - A         effect on the uncarted (ATU)
    overlap     h = e (1 - e)   t = e (1 - e)     overlap weights (ATO; Li, Morgan, Zaslavsky 2018)

The average is right where e or r_a is right. A denominator P(a | x) is at least `clip`; where it is
less, r_a alone has to be right. The weights of `overlap` have no denominator.

On rows that the model was trained on, the sum is nearly zero by training, eps nearly zero, and the
result looks unbiased even where it is not: `check_held_out` refuses them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.core.errors import DataError
from cmdcm.model.causal.rows import ARMS, CausalRows
from cmdcm.model.metrics import Array

POPULATIONS = ("all", "carted", "uncarted", "overlap")
"""Names of the populations that averages are taken over."""

_FAR = 200.0  # in logits: farther than any two probabilities of double precision
_SIGMOID = np.finfo(np.float32)  # of a head


@dataclass(frozen=True)
class Estimate:
    """An average with its interval; all None where the rows do not define it.

    Attributes:
        estimate: The targeted average.
        standard_error: From the influence function, clustered by user.
        lower: Lower bound of the normal interval.
        upper: Upper bound of the normal interval.
        plug_in: The average of the untargeted predictions.
        p_value: Two-sided, of the hypothesis that the average is 0.
    """

    estimate: float | None
    standard_error: float | None
    lower: float | None
    upper: float | None
    plug_in: float | None
    p_value: float | None

    def to_json(self) -> dict[str, float | None]:
        """Returns the numbers by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Targeted:
    """Targeted averages over one population.

    Attributes:
        r1: Of L(1).
        r0: Of L(0).
        effect: Of L(1) - L(0).
        outcomes: Arm -> targeted outcomes r*, [rows]; None for an arm whose outcomes are all
            equal, which no finite intercept fits.
    """

    r1: Estimate
    r0: Estimate
    effect: Estimate
    outcomes: dict[str, Array | None]

    def to_json(self) -> dict[str, Any]:
        """Returns the three estimates by name."""
        return {name: getattr(self, name).to_json() for name in ("r1", "r0", "effect")}


def check_held_out(days: Iterable[str], seen: Iterable[str], model: str) -> None:
    """Refuses rows of days on which the model was trained or stopped.

    Args:
        days: ISO days of the rows.
        seen: ISO days of the model's training and validation, from its manifest.
        model: Name of the model, for the message.

    Raises:
        DataError: A day is among both.
    """
    both = sorted(set(days) & set(seen))
    if both:
        raise DataError(
            f"targeting of {model!r} on {both[0]}"
            f"{f' and {len(both) - 1} more days' if len(both) > 1 else ''} that it was trained or "
            "stopped on: there its residuals are near zero by training, so the result would look "
            "unbiased even where it is not. Use clicks of later days."
        )


def days_of(frame: pl.DataFrame) -> list[str]:
    """Returns the distinct ISO days of a model's predictions."""
    return [str(day) for day in frame["day"].unique().to_list()]


def population_weights(
    rows: CausalRows, population: str, clip: float
) -> tuple[Array, dict[str, Array]]:
    """Returns the target t [rows] of a population, and arm -> its weights w [rows]."""
    ones, e = np.ones(len(rows)), rows.propensity
    one, zero = (rows.probability(arm, clip) for arm in ARMS)
    target, of_one, of_zero = {
        "all": (ones, 1 / one, 1 / zero),
        "carted": (rows.arm("1").astype(np.float64), ones, e / zero),
        "uncarted": (rows.arm("0").astype(np.float64), (1 - e) / one, ones),
        "overlap": (e * (1 - e), 1 - e, e),
    }[population]
    weights = {"1": rows.arm("1") * of_one, "0": rows.arm("0") * of_zero}
    return target, weights


def solve_intercept(outcomes: Array, logits: Array, weights: Array) -> float | None:
    """Solves sum w (y - expit(z + eps)) = 0 for eps: Newton's method inside a shrinking bracket.

    Args:
        outcomes: [rows] y in [0, 1].
        logits: [rows] z.
        weights: [rows] w >= 0.

    Returns:
        eps, or None where it is not finite: the weighted outcomes are all 0, all 1, or none.

    Example:
        >>> import numpy as np
        >>> y = np.array([1.0, 0, 0, 0])
        >>> round(solve_intercept(y, np.zeros(4), np.ones(4)), 6)  # logit(1 / 4)
        -1.098612
    """
    held = weights > 0
    y, z, w = outcomes[held], logits[held], weights[held]
    mean = float(np.sum(w * y) / w.sum()) if len(w) else 0.0
    if not 0 < mean < 1:
        return None
    lower, upper, eps = -_FAR, _FAR, 0.0
    for _ in range(200):
        p = expit(z + eps)
        gap, slope = float(w @ (y - p)), float(w @ (p * (1 - p)))
        lower, upper = (eps, upper) if gap > 0 else (lower, eps)
        step = eps + gap / slope if slope > 0 else _FAR
        new = step if lower < step < upper else (lower + upper) / 2
        if abs(new - eps) < 1e-12:
            return new
        eps = new
    return eps


def targeted(
    rows: CausalRows,
    population: str = "all",
    *,
    clip: float,
    folds: int = 1,
    seed: int = 0,
    confidence: float = 0.95,
) -> Targeted:
    """Targets both arms' outcomes on the rows and averages them over a population.

    The standard error is that of the solution of the two estimating equations with e and r given
    (trained on other data), a sandwich, summed by user.

    Args:
        rows: Clicks that the model was not trained on (`check_held_out`).
        population: One of `POPULATIONS`.
        clip: Lower bound of P(arm | x) in the weights.
        folds: With K > 1 the intercept of a click comes from the users of the K - 1 other folds.
        seed: Of the folds.
        confidence: Level of the intervals.
    """
    target, weights = population_weights(rows, population, clip)
    fold = _folds(rows.users, folds, seed)
    means: dict[str, float | None] = {}
    influences: dict[str, Array | None] = {}
    outcomes: dict[str, Array | None] = {}
    plug_ins: dict[str, float | None] = {}
    for arm in ARMS:
        total = target.sum()
        plug_ins[arm] = float(target @ rows.outcome(arm) / total) if total > 0 else None
        outcomes[arm] = _fluctuate(rows.delayed, rows.outcome(arm), weights[arm], fold)
        means[arm], influences[arm] = _average(rows.delayed, outcomes[arm], target, weights[arm])
    one, zero = (
        _estimate(means[arm], influences[arm], plug_ins[arm], rows.users, confidence)
        for arm in ARMS
    )
    effect = _estimate(
        _difference(means["1"], means["0"]),
        _difference(influences["1"], influences["0"]),
        _difference(plug_ins["1"], plug_ins["0"]),
        rows.users,
        confidence,
    )
    return Targeted(one, zero, effect, outcomes)


def expit(logits: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def logit(probabilities: Array) -> Array:
    """Log-odds, log p - log (1 - p); a rounded 0 or 1 stands for the nearest float32 inside."""
    p = np.clip(probabilities, float(_SIGMOID.smallest_normal), 1 - float(_SIGMOID.epsneg))
    return np.log(p) - np.log1p(-p)


def _folds(users: npt.NDArray[np.int64], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """[rows] the fold of each row's user, all 0 for a single fold."""
    if folds == 1:
        return np.zeros(len(users), np.int64)
    names, index = np.unique(users, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[index]


def _fluctuate(
    labels: Array, predictions: Array, weights: Array, fold: npt.NDArray[np.int64]
) -> Array | None:
    """[rows] targeted outcomes; None where an intercept is not finite."""
    logits = logit(predictions)
    result = np.empty(len(logits))
    present = np.flatnonzero(np.bincount(fold, minlength=1))
    for number in present:
        inside = fold == number
        others = ~inside if len(present) > 1 else inside
        eps = solve_intercept(labels[others], logits[others], weights[others])
        if eps is None:
            return None
        result[inside] = expit(logits[inside] + eps)
    return result if len(logits) else None


def _average(
    labels: Array, outcomes: Array | None, target: Array, weights: Array
) -> tuple[float | None, Array | None]:
    """The mean of the targeted outcomes over the target, and its influence function [rows]."""
    if outcomes is None or not target.sum() > 0:
        return None, None
    mean = float(target @ outcomes / target.sum())
    slope = outcomes * (1 - outcomes)
    # How far the average moves with eps, over how far the estimating equation does: 1 in the limit
    # where the weights are right.
    scale = (target @ slope) / (weights @ slope)
    influence = target * (outcomes - mean) + scale * weights * (labels - outcomes)
    return mean, influence / target.mean()


def _estimate(
    mean: float | None,
    influence: Array | None,
    plug_in: float | None,
    users: npt.NDArray[np.int64],
    confidence: float,
) -> Estimate:
    if mean is None or influence is None:
        return Estimate(None, None, None, None, plug_in, None)
    sums = np.bincount(users, weights=influence)
    clusters = np.count_nonzero(np.bincount(users))
    if clusters < 2:
        return Estimate(mean, None, None, None, plug_in, None)
    error = float(np.sqrt(clusters / (clusters - 1) * np.sum(sums**2)) / len(influence))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    p_value = 2 * NormalDist().cdf(-abs(mean) / error) if error > 0 else None
    return Estimate(mean, error, mean - half, mean + half, plug_in, p_value)


def _difference(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a - b
