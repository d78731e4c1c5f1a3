"""Overlap: whether like clicks are found in both arms, and what the weights cost."""

from typing import Any

import numpy as np

from cmdcm.model.causal.rows import ARMS, CausalRows
from cmdcm.model.metrics import Array

EDGES = (
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
"""Edges of the propensity histogram: narrow where carting is rare."""


def effective_sample_size(weights: Array) -> float:
    """Kish's (sum w)^2 / sum w^2: how many rows of equal weight tell as much; 0 without weight.

    Example:
        >>> import numpy as np
        >>> effective_sample_size(np.array([1.0, 1.0, 2.0]))
        2.6666666666666665
    """
    squares = float(np.sum(np.square(weights)))
    return float(np.sum(weights)) ** 2 / squares if squares > 0 else 0.0


def overlap(rows: CausalRows, clip: float) -> dict[str, Any]:
    """Summarises the propensities by arm.

    Returns:
        `edges` of the histogram, and for each arm's name: `rows`; `shares` of them by bin;
        `effective`, their effective sample size under the clipped inverse weights; `clipped`, the
        share of them whose P(arm | x) lies under the clip; `clipped_all`, that share of all rows;
        `largest` weight; and `mean_weight`, the sum of the weights over all rows, which is 1
        where the propensities are calibrated and not clipped.
    """
    result: dict[str, Any] = {"edges": list(EDGES), "clip": clip}
    for arm, name in ARMS.items():
        inside = rows.arm(arm)
        count = int(inside.sum())
        unclipped = rows.probability(arm, 0.0)
        weights = 1 / rows.probability(arm, clip)[inside]
        counts, _ = np.histogram(rows.propensity[inside], EDGES)
        result[name] = {
            "rows": count,
            "shares": (counts / max(count, 1)).tolist(),
            "effective": effective_sample_size(weights),
            "clipped": float(np.mean(unclipped[inside] < clip)) if count else None,
            "clipped_all": float(np.mean(unclipped < clip)) if len(rows) else None,
            "largest": float(weights.max()) if count else None,
            "mean_weight": float(weights.sum() / len(rows)) if len(rows) else None,
        }
    return result
