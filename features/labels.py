"""Labels of a click (user, item, t) in the pre-promotion window [s, p) of a promotion ending at e.

With a the attribution time and all events on the same (user, item):

    direct     D  a purchase in [t, min(p, t + a))
    cart       A  an intent event in [t, min(p, t + a))
    open_cart     A, and no purchase in [t, p)
    delayed    L  not D, and a purchase in [p, e)
    conversion C  D or L

Events at the click's own timestamp come after the click (logs of hour or day resolution).
Known when: D and A at min(p, t + a); L and C at e.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdcm.features.windows import NEVER, Int64s, first_at_or_after

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairEvents:
    """Times of one kind of event, grouped by (user, item); see `features.windows`."""

    times: Int64s
    starts: Int64s

    def first(self, groups: Int64s, instants: Int64s) -> Int64s:
        """Time of the first event at or after each instant, else `NEVER`."""
        return np.asarray(first_at_or_after(self.times, self.starts, groups, instants), np.int64)


@dataclass(frozen=True)
class Labels:
    """Labels and their times of a batch of clicks, all [clicks]; times in UTC ms."""

    direct: Bools
    cart: Bools
    open_cart: Bools
    delayed: Bools
    conversion: Bools
    direct_known_ms: Int64s
    delayed_known_ms: Int64s
    conversion_delay_ms: Int64s


def label(
    clicks_ms: Int64s,
    bounds_ms: Int64s,
    pairs: Int64s,
    purchases: PairEvents,
    intents: PairEvents,
    attribution_ms: int,
) -> Labels:
    """Labels clicks.

    Args:
        clicks_ms: [clicks].
        bounds_ms: [clicks, 3]: pre-promotion start, promotion start and end of each click's
            promotion.
        pairs: [clicks], the click's (user, item) group.
        purchases: All purchases.
        intents: All intent events.
        attribution_ms: The attribution time.
    """
    start, end = bounds_ms[:, 1], bounds_ms[:, 2]
    known = np.minimum(start, clicks_ms + attribution_ms)
    next_purchase = purchases.first(pairs, clicks_ms)
    day_purchase = purchases.first(pairs, start)
    direct = next_purchase < known
    cart = intents.first(pairs, clicks_ms) < known
    delayed = ~direct & (day_purchase < end)
    bought = np.where(direct, next_purchase, np.where(delayed, day_purchase, NEVER))
    return Labels(
        direct=direct,
        cart=cart,
        open_cart=cart & (next_purchase >= start),
        delayed=delayed,
        conversion=direct | delayed,
        direct_known_ms=known,
        delayed_known_ms=end,
        conversion_delay_ms=np.where(bought == NEVER, -1, bought - clicks_ms),
    )
