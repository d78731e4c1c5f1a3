"""The formulas of CM-DCM's rivals once more, as `reference.py` has those of CM-DCM.

Everything is in probability space and float64, and nothing imports the code under test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmdcm.tests.model.reference import Array, Arrays, cross_entropy

Settings = Mapping[str, Any]
"""The settings of `[model]`."""


@dataclass(frozen=True)
class Rival:
    """A model.

    Attributes:
        heads: Names of its logits.
        predictions: The heads' probabilities -> the named outputs.
        loss: Probabilities, labels and settings -> the loss without the embeddings' penalty.
    """

    heads: tuple[str, ...]
    predictions: Callable[[Arrays], dict[str, Array]]
    loss: Callable[[Arrays, Arrays, Settings], float]


def mean_cross_entropy(y: Array, p: Array) -> float:
    return float(np.mean(cross_entropy(y, p)))


def one_head(label: str) -> Rival:
    return Rival(
        ("conversion",),
        lambda p: {"p_conversion": p["conversion"]},
        lambda p, y, _: mean_cross_entropy(y[label], p["conversion"]),
    )


def graph(d: Array, cart: Array, later: Array) -> dict[str, Array]:
    """The four outputs: `later` is P(L | D = 0), `cart` is P(A)."""
    delayed = (1 - d) * later
    return {"p_direct": d, "p_cart": cart, "p_delayed": delayed, "p_conversion": d + delayed}


def esmm(p: Arrays) -> dict[str, Array]:
    return graph(p["direct"], p["cart"], p["delayed_given_not_direct"])


def esmm_loss(p: Arrays, y: Arrays, _: Settings) -> float:
    out = esmm(p)
    return sum(mean_cross_entropy(y[n], out[f"p_{n}"]) for n in ("direct", "cart", "delayed"))


ZOO = {
    "vanilla": one_head("direct"),
    "single_task": one_head("conversion"),
    "esmm": Rival(("direct", "cart", "delayed_given_not_direct"), esmm, esmm_loss),
}
