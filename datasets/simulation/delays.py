"""How long people take: delays with a piecewise log-linear distribution function."""

from dataclasses import dataclass

import numpy as np

from cmdcm.datasets.simulation import Floats, Ints

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True)
class Delay:
    """A distribution of delays in seconds.

    Attributes:
        seconds: Delays, increasing.
        shares: Share of the delays up to each of them, from 0 to 1.

    Example:
        >>> float(Delay((60.0, 3600.0), (0.0, 1.0)).share_within(np.array([3600.0]))[0])
        1.0
    """

    seconds: tuple[float, ...]
    shares: tuple[float, ...]

    def share_within(self, seconds: Floats | Ints) -> Floats:
        """Returns the share of delays of at most `seconds`, [n]."""
        return np.interp(np.log(np.maximum(seconds, 1.0)), np.log(self.seconds), self.shares)

    def draw(self, rng: np.random.Generator, within: Floats | Ints) -> Ints:
        """Draws whole delays, each known to be of at most `within` seconds, [n]."""
        quantile = rng.random(len(within)) * self.share_within(within)
        delay = np.exp(np.interp(quantile, self.shares, np.log(self.seconds)))
        return np.minimum(delay, within).astype(np.int64)


REPEAT = Delay((5, 10 * MINUTE, HOUR, 2 * DAY), (0.0, 0.6, 0.75, 1.0))
"""From a click to the next one of the visit."""
SIGN = Delay((3, MINUTE), (0.0, 1.0))
"""From a click to a micro behaviour or a favourite."""
CART = Delay((5, 2 * MINUTE, HOUR, DAY), (0.0, 0.75, 0.92, 1.0))
"""From a visit's last click to the cart."""
RETURN = Delay((20, 10 * MINUTE), (0.0, 1.0))
"""From the click on a promotion day to the purchase that follows it."""
REFUND = Delay((6 * HOUR, 3 * DAY, 10 * DAY, 25 * DAY), (0.0, 0.3, 0.8, 1.0))
"""From a purchase to its refund."""
