"""The structural equations: the true probabilities of every visit and what is drawn from them.

Each equation is a logistic one: logit p = intercept + the sum of coefficient times term. `EFFECTS`
holds the coefficients, `terms` the terms; `calibrate` solves for the intercepts so that the world
has the configured rates. See docs/simulator.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmdcm.core.config import SimulateConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.simulation import Bools, Floats
from cmdcm.datasets.simulation.delays import DIRECT
from cmdcm.datasets.simulation.population import Items, Users
from cmdcm.datasets.simulation.timeline import BEFORE, DURING, Timeline
from cmdcm.datasets.simulation.visits import Visits

EFFECTS: dict[str, dict[str, float]] = {
    # Bought directly: at once or after some days, in any case before the phase ends.
    "direct": {
        "intent": 0.7,
        "mood": 0.65,
        "match": 0.7,
        "appeal": 0.7,
        "dear": -0.45,
        "ramp": -0.5,
        "ramp_waiting": -0.4,
        "ramp_discount": -0.25,
        "during": 1.3,
        "during_waiting": 0.6,
        "during_discount": 0.4,
    },
    # Carted, given that it is not bought directly: e, the propensity.
    "cart": {
        "intent": 0.5,
        "mood": 0.5,
        "match": 0.5,
        "appeal": 0.5,
        "dear": -0.15,
        "ramp": 0.7,
        "ramp_waiting": 0.35,
        "ramp_discount": 0.35,
        "hidden": 1.0,
    },
    # Bought on the promotion days if carted and not bought directly: r1.
    "carted": {
        "waiting": 1.2,
        "intent": 0.25,
        "match": 0.4,
        "appeal": 0.4,
        "discount": 0.6,
        "bargain": 0.4,
        "dear": -0.3,
        "hidden": 1.0,
    },
    # Bought on the promotion days if neither carted nor bought directly: r0.
    "uncarted": {
        "waiting": 0.8,
        "intent": 0.4,
        "match": 0.7,
        "appeal": 0.5,
        "discount": 0.5,
        "bargain": 0.25,
        "dear": -0.3,
        "hidden": 1.0,
    },
    # Signs of intent; they cause nothing.
    "repeat": {"mood": 0.6, "intent": 0.3, "appeal": 0.3, "match": 0.3},
    "micro": {"mood": 0.8, "intent": 0.3, "appeal": 0.3},
    "favourite": {"mood": 0.7, "intent": 0.4, "appeal": 0.6, "ramp_waiting": 0.3},
}
"""Equation -> term -> coefficient. The hidden term's is in units of log Gamma."""

SIGN_INTERCEPTS = {"repeat": -1.9, "micro": -2.6, "favourite": -4.2}
CARTED_IF_DIRECT = 0.55
"""Share of direct purchases that go through the cart."""


@dataclass(frozen=True)
class Probabilities:
    """True probabilities of visits, all [visits]; each is given everything true at the first click.

    Attributes:
        direct: P(D): bought before the deadline, not on later promotion days.
        propensity: P(A | not D): carted before the deadline.
        r1: P(L | not D, do(A)): bought on the promotion days; 0 where no promotion follows.
        r0: P(L | not D, do(not A)).
        repeat: Probability of each further click.
        micro: Probability of a micro behaviour, for each click.
        favourite: Probability of a favourite.
    """

    direct: Floats
    propensity: Floats
    r1: Floats
    r0: Floats
    repeat: Floats
    micro: Floats
    favourite: Floats


@dataclass(frozen=True)
class Outcomes:
    """What was drawn, all [visits]; `delayed_if_*` are the potential outcomes."""

    direct: Bools
    cart: Bools
    delayed_if_carted: Bools
    delayed_if_uncarted: Bools

    @property
    def delayed(self) -> Bools:
        """Bought on the promotion days: the potential outcome that came true."""
        potential = np.where(self.cart, self.delayed_if_carted, self.delayed_if_uncarted)
        return ~self.direct & potential


def terms(
    rng: np.random.Generator, visits: Visits, users: Users, items: Items, timeline: Timeline
) -> dict[str, Floats]:
    """Returns the terms of the structural equations, each [visits].

    The hidden term, drawn here, is -1/2 or 1/2 and in no event: it confounds carting and delayed
    purchase when Gamma exceeds 1.
    """
    ramp = timeline.ramp(visits.time_ms, visits.season, visits.phase)
    during = (visits.phase == DURING).astype(np.float64)
    waiting, sensitivity = users.waiting[visits.user], users.sensitivity[visits.user]
    discount = items.discount[visits.item]
    return {
        "intent": users.intent[visits.user],
        "waiting": waiting,
        "mood": visits.mood,
        "match": visits.match.astype(np.float64),
        "appeal": items.appeal[visits.item],
        "discount": discount,
        "bargain": sensitivity * discount,
        "dear": np.exp(0.4 * sensitivity) * items.price_level[visits.item],
        "ramp": ramp,
        "ramp_waiting": ramp * waiting,
        "ramp_discount": ramp * discount,
        "during": during,
        "during_waiting": during * waiting,
        "during_discount": during * discount,
        "hidden": rng.integers(2, size=len(visits)) - 0.5,
    }


def probabilities(
    visits: Visits,
    terms: Mapping[str, Floats],
    intercepts: Mapping[str, float],
    confounding: float,
) -> Probabilities:
    """Evaluates the structural equations.

    Args:
        visits: The visits.
        terms: Their terms.
        intercepts: Intercepts by equation, as `calibrate` returns them.
        confounding: Gamma, the odds ratio between the two values of the hidden term.
    """
    p = {
        name: sigmoid(intercept + _score(name, terms, confounding))
        for name, intercept in intercepts.items()
    }
    season = visits.phase == BEFORE
    return Probabilities(
        direct=p["direct"] * _time_left(visits),
        propensity=p["cart"],
        r1=np.where(season, p["carted"], 0.0),
        r0=np.where(season, p["uncarted"], 0.0),
        repeat=p["repeat"],
        micro=p["micro"],
        favourite=p["favourite"],
    )


def draw_outcomes(rng: np.random.Generator, p: Probabilities) -> Outcomes:
    """Draws what comes of each visit.

    Both potential outcomes come from one uniform number, so that carting never prevents a purchase
    where r1 >= r0.
    """
    direct, cart, delayed = rng.random((3, len(p.direct)))
    bought = direct < p.direct
    return Outcomes(
        direct=bought,
        cart=cart < np.where(bought, CARTED_IF_DIRECT, p.propensity),
        delayed_if_carted=delayed < p.r1,
        delayed_if_uncarted=delayed < p.r0,
    )


def calibrate(
    visits: Visits, terms: Mapping[str, Floats], timeline: Timeline, config: SimulateConfig
) -> dict[str, float]:
    """Solves for the intercepts that give the configured rates of clicks in pre-promotion windows.

    Args:
        visits: A sample of visits.
        terms: Their terms.
        timeline: The period.
        config: Rates, and Gamma.

    Returns:
        Intercepts by equation.

    Raises:
        ConfigError: The sample has no visit in a pre-promotion window.
    """
    rows = np.flatnonzero(timeline.in_window(visits.time_ms, visits.season))
    if not len(rows):
        raise ConfigError(
            f"simulate.events = {config.events} leaves no click before a promotion; raise it"
        )
    score = {name: _score(name, terms, config.confounding)[rows] for name in EFFECTS}
    # Expected clicks of each visit: a rate is one of clicks.
    weights = 1 + np.exp(SIGN_INTERCEPTS["repeat"] + score["repeat"])
    time_left = _time_left(visits)[rows]

    direct = _intercept(score["direct"], weights * time_left, config.direct_rate * weights.sum())
    at_risk = weights * (1 - sigmoid(direct + score["direct"]) * time_left)
    carts = config.cart_rate - CARTED_IF_DIRECT * config.direct_rate
    cart = _intercept(score["cart"], at_risk, carts * weights.sum())
    propensity = sigmoid(cart + score["cart"])
    opened, rest = at_risk * propensity, at_risk * (1 - propensity)
    return {
        "direct": direct,
        "cart": cart,
        "carted": _intercept(score["carted"], opened, config.carted_bought_rate * opened.sum()),
        "uncarted": _intercept(score["uncarted"], rest, config.uncarted_bought_rate * rest.sum()),
        **SIGN_INTERCEPTS,
    }


def sigmoid(logits: Floats) -> Floats:
    """Returns 1 / (1 + exp(-logits))."""
    return 1 / (1 + np.exp(-logits))


def _time_left(visits: Visits) -> Floats:
    """Share of direct purchases that would come before the deadline."""
    return DIRECT.share_within((visits.deadline_ms - visits.time_ms) / 1000)


def _score(equation: str, terms: Mapping[str, Floats], confounding: float) -> Floats:
    scale = {"hidden": np.log(confounding)}
    scores = [scale.get(name, 1.0) * c * terms[name] for name, c in EFFECTS[equation].items()]
    return np.asarray(sum(scores), np.float64)


def _intercept(score: Floats, weights: Floats, total: float) -> float:
    """Solves sum(weights * sigmoid(intercept + score)) = total by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if (weights * sigmoid(middle + score)).sum() < total:
            low = middle
        else:
            high = middle
    return (low + high) / 2
