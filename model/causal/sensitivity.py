"""Sensitivity to hidden confounding: bounds with intervals, and where the sign is lost.

`cmdcm.model.causal.bounds` has the model and the bounds. The interval runs from the lower quantile
of the lower bound's replicates to the upper quantile of the upper bound's: it covers the true value
with at least its level, asymptotically (percentile bootstrap; Zhao, Small and Bhattacharya 2019).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdcm.model.bootstrap import UserBootstrap
from cmdcm.model.causal.bounds import HajekMean, SharpMean, replicated_hajek, replicated_sharp
from cmdcm.model.causal.rows import ARMS, CausalRows
from cmdcm.model.metrics import Array

LARGEST = 100.0
"""The largest Lambda that is tried for the loss of the sign."""

_TOLERANCE = 1e-4  # of log Lambda


class Sensitivity:
    """Bounds of E[L(1)], E[L(0)] and their difference over some clicks.

    Args:
        rows: Clicks with D = 0, some of them in each arm.
        places: [rows] their places among the bootstrap's rows.
        outcomes: Arm -> targeted outcomes over the population `all`, [rows].
        clip: Lower bound of P(arm | x).
        method: One of `bounds.METHODS`.
        boot: Draws of users.
    """

    def __init__(
        self,
        rows: CausalRows,
        places: npt.NDArray[np.int64],
        outcomes: dict[str, Array],
        clip: float,
        method: str,
        boot: UserBootstrap,
    ) -> None:
        self._tail = (1 - boot.confidence) / 2
        self._means: dict[str, HajekMean | SharpMean] = {}
        for arm in ARMS:
            inside, probability = rows.arm(arm), rows.probability(arm, clip)
            self._means[arm] = (
                replicated_sharp(rows.delayed, outcomes[arm], inside, probability, places, boot)
                if method == "sharp"
                else replicated_hajek(
                    rows.delayed[inside], probability[inside], places[inside], boot
                )
            )

    def entry(self, lam: float) -> dict[str, Any]:
        """Returns `lambda` and, of `r1`, `r0` and `effect`, the bounds and their interval."""
        one, zero = (self._means[arm].bounds(lam) for arm in ARMS)
        return {
            "lambda": lam,
            "r1": self._summary(*one),
            "r0": self._summary(*zero),
            "effect": self._summary(one[0] - zero[1], one[1] - zero[0]),
        }

    def sign_lost(self) -> dict[str, float | None]:
        """Returns the smallest Lambda at which the effect may be 0: its `bounds`, its `interval`.

        None stands for more than `LARGEST`.
        """

        def holds_zero(prefix: str) -> Callable[[float], bool]:
            def reached(lam: float) -> bool:
                one, zero = (self._means[arm].bounds(lam) for arm in ARMS)
                effect = self._summary(one[0] - zero[1], one[1] - zero[0])
                return effect[f"{prefix}lower"] <= 0 <= effect[f"{prefix}upper"]

            return reached

        return {
            "bounds": smallest_lambda(holds_zero("")),
            "interval": smallest_lambda(holds_zero("interval_")),
        }

    def _summary(self, lower: Array, upper: Array) -> dict[str, float]:
        """The bounds of the rows, which come first, and the quantiles of the replicates."""
        return {
            "lower": float(lower[0]),
            "upper": float(upper[0]),
            "interval_lower": float(np.nanquantile(lower[1:], self._tail)),
            "interval_upper": float(np.nanquantile(upper[1:], 1 - self._tail)),
        }


def smallest_lambda(reached: Callable[[float], bool]) -> float | None:
    """Returns the smallest Lambda, to 0.01 %, of a condition that then holds; None over `LARGEST`.

    Example:
        >>> round(smallest_lambda(lambda lam: lam >= 2.5), 2)
        2.5
    """
    if reached(1.0):
        return 1.0
    if not reached(LARGEST):
        return None
    lower, upper = 0.0, float(np.log(LARGEST))
    while upper - lower > _TOLERANCE:
        middle = (lower + upper) / 2
        lower, upper = (lower, middle) if reached(float(np.exp(middle))) else (middle, upper)
    return float(np.exp(upper))
