"""What comes of each visit: drawn from its true probabilities and its own random numbers."""

from dataclasses import dataclass

import numpy as np

from cmdcm.datasets.simulation import Bools
from cmdcm.datasets.simulation.equations import Probabilities
from cmdcm.datasets.simulation.randomness import CART, DELAYED, DIRECT, Keys, uniform


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


def draw_outcomes(keys: Keys, p: Probabilities, direct_cart_share: float) -> Outcomes:
    """Draws what comes of each visit.

    Both potential outcomes come from one uniform number, so that carting never prevents a purchase
    where r1 >= r0.

    Args:
        keys: [visits], from `randomness.visit_keys`.
        p: Their probabilities.
        direct_cart_share: Share of direct purchases that go through the cart.
    """
    bought = uniform(keys, DIRECT) < p.direct
    delayed = uniform(keys, DELAYED)
    return Outcomes(
        direct=bought,
        cart=uniform(keys, CART) < np.where(bought, direct_cart_share, p.propensity),
        delayed_if_carted=delayed < p.r1,
        delayed_if_uncarted=delayed < p.r0,
    )
