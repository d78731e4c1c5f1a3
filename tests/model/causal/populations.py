"""Small populations that hold every combination in its exact share, so that no seed decides."""

from dataclasses import dataclass

import numpy as np

from cmdcm.model.causal.rows import CausalRows


@dataclass(frozen=True)
class Stratum:
    """Rows alike in x: their number and true probabilities, whose products are whole numbers."""

    rows: int
    e: float
    r1: float
    r0: float


STRATA = (
    Stratum(1000, 0.1, 0.3, 0.05),
    Stratum(1000, 0.4, 0.6, 0.1),
    Stratum(500, 0.8, 0.2, 0.4),
)


def whole(value: float) -> int:
    assert abs(value - round(value)) < 1e-9, value
    return round(value)


def population(strata=STRATA, **outputs) -> CausalRows:
    """The rows of all strata, each row a user; `outputs` replace a true e, r1 or r0, by stratum."""
    parts = []
    for place, s in enumerate(strata):
        carted = whole(s.rows * s.e)
        for a, count, r in ((True, carted, s.r1), (False, s.rows - carted, s.r0)):
            bought = whole(count * r)
            parts.append((np.full(count, place), np.full(count, a), np.arange(count) < bought))
    x, carts, delayed = (np.concatenate(column) for column in zip(*parts, strict=True))
    true = {
        "propensity": [s.e for s in strata],
        "r1": [s.r1 for s in strata],
        "r0": [s.r0 for s in strata],
    }
    predicted = {name: np.array(outputs.get(name, v))[x] for name, v in true.items()}
    return CausalRows(np.arange(len(x)), carts, delayed.astype(float), **predicted)
