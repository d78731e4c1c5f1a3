"""The clicks that a causal question is about, and what a model says of them.

The transition add-to-cart -> delayed conversion is defined among clicks without a direct purchase
(D = 0): A says whether such a click led to a cart, L whether it was bought on the promotion days.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.core.errors import DataError
from cmdcm.model.metrics import Array

OUTPUTS = ("propensity", "r1", "r0")
"""Columns of a model's predictions that a causal summary needs."""

ARMS = {"1": "carted", "0": "uncarted"}
"""Arm a -> name of its clicks; the column `r{a}` predicts its outcome L(a)."""


@dataclass(frozen=True)
class CausalRows:
    """Clicks with D = 0; each array is [rows].

    Attributes:
        users: Index of the click's user, int.
        carted: A, whether the click led to a cart.
        delayed: L, 0 or 1.
        propensity: e = P(A = 1 | D = 0, x), as the model predicts it.
        r1: P(L | do(A = 1), D = 0, x), as the model predicts it.
        r0: P(L | do(A = 0), D = 0, x), as the model predicts it.
    """

    users: npt.NDArray[np.int64]
    carted: npt.NDArray[np.bool_]
    delayed: Array
    propensity: Array
    r1: Array
    r0: Array

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns should have one length. Received: {lengths}")
        for name in OUTPUTS:
            values = getattr(self, name)
            if len(values) and not (np.min(values) >= 0 and np.max(values) <= 1):
                raise DataError(f"{name} should lie in [0, 1]")

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: Any) -> "CausalRows":
        """Returns some of the rows, by a mask or by indices."""
        return CausalRows(**{name: column[rows] for name, column in vars(self).items()})

    def arm(self, arm: str) -> npt.NDArray[np.bool_]:
        """Returns the mask of the clicks of arm `1` or `0`, [rows]."""
        return self.carted if arm == "1" else ~self.carted

    def outcome(self, arm: str) -> Array:
        """Returns the predicted outcome of arm `1` or `0`, [rows]."""
        return self.r1 if arm == "1" else self.r0

    def probability(self, arm: str, clip: float) -> Array:
        """Returns P(arm | x), at least `clip`, [rows]."""
        return np.maximum(self.propensity if arm == "1" else 1 - self.propensity, clip)


def causal_rows(frame: pl.DataFrame) -> CausalRows:
    """Takes the clicks without a direct purchase from a model's predictions."""
    kept = frame.filter(pl.col("direct") == 0)
    _, users = np.unique(kept["user_id"].to_numpy(), return_inverse=True)
    return CausalRows(
        users=users,
        carted=kept["cart"].to_numpy() > 0,
        delayed=kept["delayed"].to_numpy().astype(np.float64),
        **{name: kept[name].to_numpy().astype(np.float64) for name in OUTPUTS},
    )
