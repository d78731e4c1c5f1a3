"""The structural equations: the true probabilities of every visit.

Each equation is a logistic one: logit p = intercept + the sum of coefficient times term. `EFFECTS`
holds the coefficients, `terms` the terms. What the world's settings change is `Equations`. See
docs/simulator.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmdcm.core.config import SimulateConfig
from cmdcm.datasets.simulation import Floats, Ints
from cmdcm.datasets.simulation.delays import Delay
from cmdcm.datasets.simulation.population import Items, Users
from cmdcm.datasets.simulation.randomness import HIDDEN, Keys, uniform
from cmdcm.datasets.simulation.timeline import BEFORE, DURING, Timeline
from cmdcm.datasets.simulation.visits import Visits

EFFECTS: dict[str, dict[str, float]] = {
    # Clicked, where it is shown.
    "click": {
        "intent": 0.2,
        "mood": 0.3,
        "match": 0.5,
        "appeal": 0.5,
        "dear": -0.2,
        "position": -0.12,
    },
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
        "during_kind": 1.0,
    },
    # Carted, given that it is not bought directly: e, the propensity.
    "cart": {
        "price": -0.5,
        "taste": 0.5,
        "ramp": 0.7,
        "ramp_kind": 0.5,
        "intent": 0.5,
        "mood": 0.5,
        "match": 0.5,
        "appeal": 0.5,
        "dear": -0.15,
        "ramp_waiting": 0.35,
        "ramp_discount": 0.35,
        "hidden": 1.0,
    },
    # Bought on the promotion days if carted and not bought directly: r1.
    "carted": {
        "price": -0.4,
        "taste": 0.4,
        "kind": 1.0,
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
        "price": -0.4,
        "taste": 0.4,
        "kind": 1.0,
        "waiting": 0.8,
        "intent": 0.4,
        "match": 0.7,
        "appeal": 0.5,
        "discount": 0.5,
        "bargain": 0.25,
        "dear": -0.3,
        "hidden": 1.0,
    },
    # Refunded, if bought.
    "refund": {
        "price": 0.3,
        "sensitivity": 0.3,
        "appeal": -0.4,
        "during": 0.4,
        "during_discount": 0.3,
    },
    # Signs of intent; they cause nothing.
    "repeat": {"mood": 0.6, "intent": 0.3, "appeal": 0.3, "match": 0.3},
    "micro": {"mood": 0.8, "intent": 0.3, "appeal": 0.3},
    "favourite": {"mood": 0.7, "intent": 0.4, "appeal": 0.6, "ramp_waiting": 0.3},
}
"""Equation -> term -> coefficient. The hidden term's is in units of log Gamma."""

MEASURED = ("price", "taste", "ramp", "ramp_kind")
"""Terms of carting that the log shows: price, category, time, kind of promotion."""

OF_PROMOTIONS = (
    *("ramp", "ramp_waiting", "ramp_discount", "ramp_kind", "kind"),
    *("during", "during_waiting", "during_discount", "during_kind"),
    *("waiting", "discount", "bargain"),
)
"""Terms by which promotions act."""

WANDERING = ("direct", "cart", "carted", "uncarted")
"""Equations that change from promotion to promotion when `shift` is positive."""

REPEAT_INTERCEPT = -1.9

Terms = dict[str, Floats]


@dataclass(frozen=True)
class Probabilities:
    """True probabilities of visits, all [visits]; each is given everything true at the first click.

    Attributes:
        click: P(clicked | shown); NaN where nothing was shown.
        direct: P(D): bought before the deadline, not on later promotion days.
        propensity: e = P(A | not D): carted before the deadline.
        cart: P(A).
        r1: P(L | not D, do(A)): bought on the promotion days; 0 where no promotion follows.
        r0: P(L | not D, do(not A)).
        refund: P(refunded | bought directly).
        refund_delayed: P(refunded | bought on the promotion days).
        repeat: Probability of each further click.
        micro: Expected micro behaviours of each click, at most 1.
        favourite: Probability of a favourite.
    """

    click: Floats
    direct: Floats
    propensity: Floats
    cart: Floats
    r1: Floats
    r0: Floats
    refund: Floats
    refund_delayed: Floats
    repeat: Floats
    micro: Floats
    favourite: Floats

    @property
    def delayed(self) -> Floats:
        """P(L): not bought directly, and bought on the promotion days."""
        e = self.propensity
        return (1 - self.direct) * (e * self.r1 + (1 - e) * self.r0)


@dataclass(frozen=True)
class Equations:
    """The equations of one world.

    Attributes:
        config: The world's settings.
        intercepts: Intercept of each equation.
        drift: Equation -> term -> [promotions + 1], by how much the coefficient differs at each
            promotion, as a share of it; the last one, outside of seasons, is 0. The term
            `intercept` differs by the log-odds themselves.
    """

    config: SimulateConfig
    intercepts: Mapping[str, float]
    drift: Mapping[str, Mapping[str, Floats]]

    def coefficients(self, equation: str) -> dict[str, float]:
        """Returns the coefficients that the settings make of `EFFECTS`."""
        config, scaled = self.config, {}
        for term, coefficient in EFFECTS[equation].items():
            if term == "hidden":
                coefficient *= np.log(config.confounding)
            elif equation == "cart":
                hidden = 1.0 if term in MEASURED else config.hidden_selection
                coefficient *= config.propensity_spread * hidden
            if term in OF_PROMOTIONS:
                coefficient *= config.promotion_effect
            if coefficient:
                scaled[term] = float(coefficient)
        return scaled

    def score(self, equation: str, terms: Mapping[str, Floats], season: Ints) -> Floats:
        """Returns the log-odds without the intercept, [n]."""
        drift = self.drift.get(equation, {})
        total = drift["intercept"][season] if drift else np.zeros(len(season))
        for term, coefficient in self.coefficients(equation).items():
            change = 1 + drift[term][season] if term in drift else 1.0
            total = total + coefficient * change * terms[term]
        return np.asarray(total, np.float64)

    def evaluate(self, equation: str, terms: Mapping[str, Floats], season: Ints) -> Floats:
        """Returns the probability, [n]."""
        return sigmoid(self.intercepts[equation] + self.score(equation, terms, season))

    def time_left(self, visits: Visits) -> Floats:
        """Returns the share of direct purchases that would come before the deadline, [n]."""
        return self.direct_delay.share_within((visits.deadline_ms - visits.time_ms) / 1000)

    @property
    def direct_delay(self) -> Delay:
        """From a visit's last click to a direct purchase."""
        seconds, shares = zip(*self.config.direct_delays, strict=True)
        return Delay(seconds, shares)

    def probabilities(self, visits: Visits, terms: Terms) -> Probabilities:
        """Evaluates all equations for visits and their terms."""

        def p(equation: str, terms: Mapping[str, Floats] = terms) -> Floats:
            return self.evaluate(equation, terms, visits.season)

        season = visits.phase == BEFORE
        direct, propensity = p("direct") * self.time_left(visits), p("cart")
        reduced = terms | {
            "during": np.ones(len(visits)),
            "during_discount": terms["discount"],
        }
        shown = visits.position >= 0
        return Probabilities(
            click=np.where(shown, p("click"), np.nan),
            direct=direct,
            propensity=propensity,
            cart=direct * self.config.direct_cart_share + (1 - direct) * propensity,
            r1=np.where(season, p("carted"), 0.0),
            r0=np.where(season, p("uncarted"), 0.0),
            refund=p("refund"),
            refund_delayed=p("refund", reduced),
            repeat=p("repeat"),
            micro=p("micro"),
            favourite=p("favourite"),
        )


def click_terms(visits: Visits, users: Users, items: Items) -> Terms:
    """Returns the terms of the equation `click`, each [visits]."""
    sensitivity = users.sensitivity[visits.user]
    return {
        "intent": users.intent[visits.user],
        "mood": visits.mood,
        "match": visits.match.astype(np.float64),
        "appeal": items.appeal[visits.item],
        "dear": np.exp(0.4 * sensitivity) * items.price_level[visits.item],
        "position": visits.position.astype(np.float64),
    }


def all_terms(visits: Visits, users: Users, items: Items, timeline: Timeline, keys: Keys) -> Terms:
    """Returns the terms of all equations, each [visits].

    The hidden term is -1/2 or 1/2 and in no event: it confounds carting and delayed purchase when
    Gamma exceeds 1.
    """
    ramp = timeline.ramp(visits.time_ms, visits.season, visits.phase)
    during = (visits.phase == DURING).astype(np.float64)
    kind = timeline.pulls[visits.season]
    waiting, sensitivity = users.waiting[visits.user], users.sensitivity[visits.user]
    discount = items.discount[visits.item]
    return click_terms(visits, users, items) | {
        "price": items.log_price[visits.item],
        "taste": items.taste[visits.item],
        "sensitivity": sensitivity,
        "waiting": waiting,
        "discount": discount,
        "bargain": sensitivity * discount,
        "kind": kind,
        "ramp": ramp,
        "ramp_waiting": ramp * waiting,
        "ramp_discount": ramp * discount,
        "ramp_kind": ramp * kind,
        "during": during,
        "during_waiting": during * waiting,
        "during_discount": during * discount,
        "during_kind": during * kind,
        "hidden": np.where(uniform(keys, HIDDEN) < 0.5, -0.5, 0.5),
    }


def draw_drift(
    rng: np.random.Generator, shift: float, promotions: int
) -> dict[str, dict[str, Floats]]:
    """Draws how the equations wander from promotion to promotion, for `Equations.drift`.

    Each coefficient, and each intercept, takes a random walk with steps of standard deviation
    `shift`, moved so that its mean over the promotions is 0. The hidden term keeps its strength.
    """
    if not shift:
        return {}
    drift: dict[str, dict[str, Floats]] = {}
    for equation in WANDERING:
        drift[equation] = {}
        for term in ("intercept", *EFFECTS[equation]):
            walk = np.cumsum(shift * rng.standard_normal(promotions))
            if term != "hidden":
                drift[equation][term] = np.append(walk - walk.mean(), 0.0)
    return drift


def sigmoid(logits: Floats) -> Floats:
    """Returns 1 / (1 + exp(-logits))."""
    return 1 / (1 + np.exp(-logits))
