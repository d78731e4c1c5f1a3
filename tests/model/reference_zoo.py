"""The formulas of CM-DCM's rivals once more, as `reference.py` has those of CM-DCM.

Everything is in probability space and float64, and nothing imports the code under test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmdcm.tests.model.reference import Array, Arrays, cross_entropy, logit

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


def conversion(p: Arrays) -> dict[str, Array]:
    return {"p_conversion": p["conversion"]}


def one_head(label: str) -> Rival:
    return Rival(
        ("conversion",),
        conversion,
        lambda p, y, _: mean_cross_entropy(y[label], p["conversion"]),
    )


TASKS = ("direct", "cart", "delayed", "conversion")

INDEPENDENT = Rival(
    TASKS,
    lambda p: {f"p_{task}": p[task] for task in TASKS},
    lambda p, y, _: sum(mean_cross_entropy(y[task], p[task]) for task in TASKS),
)
"""A head a label, each on all clicks."""


def graph(d: Array, cart: Array, later: Array) -> dict[str, Array]:
    """The four outputs: `later` is P(L | D = 0), `cart` is P(A)."""
    delayed = (1 - d) * later
    return {"p_direct": d, "p_cart": cart, "p_delayed": delayed, "p_conversion": d + delayed}


def esmm(p: Arrays) -> dict[str, Array]:
    return graph(p["direct"], p["cart"], p["delayed_given_not_direct"])


def esmm_loss(p: Arrays, y: Arrays, _: Settings) -> float:
    out = esmm(p)
    return sum(mean_cross_entropy(y[n], out[f"p_{n}"]) for n in ("direct", "cart", "delayed"))


def fnc(p: Arrays) -> dict[str, Array]:
    return {"p_conversion": np.minimum(p["conversion"] / (1 - p["conversion"]), 1.0)}


def history_loss(p: Arrays, y: Arrays, settings: Settings) -> float:
    """The loss of a delayed-feedback model on clicks with final labels, by a loop."""
    total, name = 0.0, settings["name"]
    for n, positive in enumerate(y[settings["delayed_label"]]):
        hours = y["conversion_delay_ms"][n] / 3_600_000
        early = positive == 1 and hours <= settings["waiting_hours"]
        late = positive == 1 and not early
        f = p["conversion"][n]
        if name == "fnc":
            total += -np.log(1 - f) - (np.log(f) if positive else 0.0)
        else:
            total += -np.log(f if positive else 1 - f)
        if name == "dfm" and positive:
            log_rate = float(logit(p["rate"][n]))
            total += np.exp(log_rate) * hours - log_rate
        if "dp" in p:
            total += float(cross_entropy(late, p["dp"][n]))
        if "z" in p and not early:
            total += float(cross_entropy(late, p["z"][n]))
        if "seen" in p and positive:
            total += float(cross_entropy(early, p["seen"][n]))
    return total / len(y["conversion"])


def delayed(*auxiliary: str, served: Callable[[Arrays], dict[str, Array]] = conversion) -> Rival:
    return Rival(("conversion", *auxiliary), served, history_loss)


ZOO = {
    "vanilla": one_head("direct"),
    "single_task": one_head("conversion"),
    "shared_bottom": INDEPENDENT,
    "mmoe": INDEPENDENT,
    "ple": INDEPENDENT,
    "pepnet": INDEPENDENT,
    "esmm": Rival(("direct", "cart", "delayed_given_not_direct"), esmm, esmm_loss),
    "as_observed": delayed(),
    "dfm": delayed("rate"),
    "fnw": delayed(),
    "fnc": delayed(served=fnc),
    "fsiw": delayed("seen", "z"),
    "es_dfm": delayed("dp", "z"),
    "defer": delayed("seen"),
    "defuse": delayed("dp", "z"),
    "ulc": delayed("z"),
}
