"""The formulas of CM-DCM's rivals once more, as `reference.py` has those of CM-DCM.

Everything is in probability space and float64, and nothing imports the code under test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmdcm.tests.model.reference import Array, Arrays, arm_risk, cross_entropy, logit

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


def cart_graph(p: Arrays) -> dict[str, Array]:
    """The outputs where the delayed purchase passes through the cart."""
    d, e, r1, r0 = (p[n] for n in ("direct", "propensity", "r1", "r0"))
    outputs = graph(d, d * p["cart_direct"] + (1 - d) * e, e * r1 + (1 - e) * r0)
    return outputs | {"cart_effect": r1 - r0, "propensity": e, "r1": r1, "r0": r0}


def cart_graph_loss(p: Arrays, y: Arrays) -> float:
    """BCE of direct, of the cart among buyers and of delayed; means over all clicks."""
    out, direct = cart_graph(p), y["direct"]
    buyers = float(np.mean(direct * cross_entropy(y["cart"], p["cart_direct"])))
    rest = sum(mean_cross_entropy(y[n], out[f"p_{n}"]) for n in ("direct", "delayed"))
    return rest + buyers


def esm2_loss(p: Arrays, y: Arrays, _: Settings) -> float:
    action = (1 - p["direct"]) * p["propensity"]
    return cart_graph_loss(p, y) + mean_cross_entropy(y["cart"] * (1 - y["direct"]), action)


def with_propensity(p: Arrays) -> dict[str, Array]:
    m = p["micro"]
    return {**p, "propensity": m * p["cart_micro"] + (1 - m) * p["cart_no_micro"]}


def hm3_loss(p: Arrays, y: Arrays, settings: Settings) -> float:
    micro = mean_cross_entropy(y["micro"] * (1 - y["direct"]), (1 - p["direct"]) * p["micro"])
    return micro + esm2_loss(with_propensity(p), y, settings)


def arms_loss(p: Arrays, y: Arrays, settings: Settings, estimator: str) -> float:
    """The graph's loss, that of the propensity, and the risks of both arms."""
    direct, e = y["direct"], p["propensity"]
    total = cart_graph_loss(p, y) + float(np.mean((1 - direct) * cross_entropy(y["cart"], e)))
    for arm, in_arm, q in (("1", y["cart"], e), ("0", 1 - y["cart"], 1 - e)):
        # The imputed error is a logit as it is.
        guess = logit(p[f"i{arm}"]) if estimator == "dr_error" else None
        data = (in_arm, direct, y["delayed"], p[f"r{arm}"], q, settings["propensity_clip"], guess)
        total += settings["transition_weight"] * arm_risk(estimator, *data)
        if guess is not None:
            error = cross_entropy(y["delayed"], p[f"r{arm}"])
            weight = in_arm * (1 - direct) / np.maximum(q, settings["propensity_clip"])
            mean = np.sum(weight * (error - guess) ** 2) / np.sum(1 - direct)
            total += settings["transition_weight"] * mean
    return float(total)


def dcmt_loss(p: Arrays, y: Arrays, settings: Settings) -> float:
    """The prior in the paper's letters, where r* is the probability of no purchase."""
    r, r_star = p["r1"], 1 - p["r0"]
    space = y["direct"] == 0
    prior = np.abs(1 - (r + r_star))[space].mean()
    return arms_loss(p, y, settings, "snipw") + float(settings["counterfactual_weight"] * prior)


CART_GRAPH = ("direct", "propensity", "cart_direct", "r1", "r0")


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


def ecad(p: Arrays) -> dict[str, Array]:
    c, r = p["conversion"], p["refund"]
    return {"p_conversion": c, "p_refunded": c * r, "p_effective": c * (1 - r)}


def ecad_loss(p: Arrays, y: Arrays, _: Settings) -> float:
    out = ecad(p)
    return sum(mean_cross_entropy(y[n], out[f"p_{n}"]) for n in ("conversion", "refunded"))


ZOO = {
    "vanilla": one_head("direct"),
    "single_task": one_head("conversion"),
    "shared_bottom": INDEPENDENT,
    "mmoe": INDEPENDENT,
    "ple": INDEPENDENT,
    "pepnet": INDEPENDENT,
    "esmm": Rival(("direct", "cart", "delayed_given_not_direct"), esmm, esmm_loss),
    "esm2": Rival(CART_GRAPH, cart_graph, esm2_loss),
    "hm3": Rival(
        ("direct", "micro", "cart_micro", "cart_no_micro", "cart_direct", "r1", "r0"),
        lambda p: cart_graph(with_propensity(p)),
        hm3_loss,
    ),
    "escm2_ips": Rival(CART_GRAPH, cart_graph, lambda p, y, s: arms_loss(p, y, s, "ipw")),
    "escm2_dr": Rival(
        (*CART_GRAPH, "i1", "i0"), cart_graph, lambda p, y, s: arms_loss(p, y, s, "dr_error")
    ),
    "dcmt": Rival(CART_GRAPH, cart_graph, dcmt_loss),
    "hdr": one_head("conversion"),
    "as_observed": delayed(),
    "dfm": delayed("rate"),
    "fnw": delayed(),
    "fnc": delayed(served=fnc),
    "fsiw": delayed("seen", "z"),
    "es_dfm": delayed("dp", "z"),
    "defer": delayed("seen"),
    "defuse": delayed("dp", "z"),
    "ulc": delayed("z"),
    "ecad": Rival(("conversion", "refund"), ecad, ecad_loss),
}
