"""Intercepts of the structural equations, so that a world has the configured rates."""

from dataclasses import replace

import numpy as np

from cmdcm.core.errors import ConfigError
from cmdcm.datasets.simulation import Floats
from cmdcm.datasets.simulation.equations import REPEAT_INTERCEPT, Equations, Terms, sigmoid
from cmdcm.datasets.simulation.timeline import Timeline
from cmdcm.datasets.simulation.visits import Visits


def calibrate_clicks(equations: Equations, meetings: Visits, terms: Terms) -> Equations:
    """Solves for the intercept that gives impressions the configured click rate."""
    score = equations.score("click", terms, meetings.season)
    rate = equations.config.click_rate
    intercept = _intercept(score, np.ones(len(score)), rate * len(score))
    return replace(equations, intercepts={**equations.intercepts, "click": intercept})


def calibrate(equations: Equations, visits: Visits, terms: Terms, timeline: Timeline) -> Equations:
    """Solves for the intercepts that give the configured rates of clicks in pre-promotion windows.

    Args:
        equations: Without intercepts, but that of clicks.
        visits: A sample of visits.
        terms: Their terms.
        timeline: The period.

    Raises:
        ConfigError: The sample has no visit in a pre-promotion window.
    """
    config = equations.config
    rows = np.flatnonzero(timeline.in_window(visits.time_ms, visits.season))
    if not len(rows):
        raise ConfigError(
            f"simulate.events = {config.events} leaves no click before a promotion; raise it"
        )
    chosen = visits.take(rows)
    inside = {name: values[rows] for name, values in terms.items()}

    def score(name: str) -> Floats:
        return equations.score(name, inside, chosen.season)

    # Expected clicks of each visit: a rate is one of clicks.
    weights = 1 + np.exp(REPEAT_INTERCEPT + score("repeat"))
    clicks = weights.sum()
    time_left = equations.time_left(chosen)

    direct = _intercept(score("direct"), weights * time_left, config.direct_rate * clicks)
    p_direct = sigmoid(direct + score("direct")) * time_left
    at_risk = weights * (1 - p_direct)
    carts = config.cart_rate - config.direct_cart_share * config.direct_rate
    cart = _intercept(score("cart"), at_risk, carts * clicks)
    propensity = sigmoid(cart + score("cart"))
    opened, rest = at_risk * propensity, at_risk * (1 - propensity)
    bought = weights * p_direct
    ones = np.ones(len(rows))
    found = {
        "direct": direct,
        "cart": cart,
        "carted": _intercept(score("carted"), opened, config.carted_bought_rate * opened.sum()),
        "uncarted": _intercept(score("uncarted"), rest, config.uncarted_bought_rate * rest.sum()),
        "refund": _intercept(score("refund"), bought, config.refund_rate * bought.sum()),
        "repeat": REPEAT_INTERCEPT,
        "micro": _intercept(score("micro"), weights, config.micro_rate * clicks),
        "favourite": _intercept(score("favourite"), ones, config.favourite_rate * clicks),
    }
    return replace(equations, intercepts={**equations.intercepts, **found})


def _intercept(score: Floats, weights: Floats, total: float) -> float:
    """Solves sum(weights * sigmoid(intercept + score)) = total by bisection."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        if (weights * sigmoid(middle + score)).sum() < total:
            low = middle
        else:
            high = middle
    return (low + high) / 2
