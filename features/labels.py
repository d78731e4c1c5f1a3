"""Labels of a click (user, key, t) in the pre-promotion window [s, p) of a promotion ending at e.

With a the attribution time, b = min(e, t + `delayed_days`), and all events on the same (user, key):

    direct     D  a purchase in [t, min(p, t + a)) that is credited to the click
    cart       A  an intent event in [t, min(p, t + a)) that is credited to the click
    open_cart     A, and no purchase in [t, p), whoever has the credit
    delayed    L  not D, and a purchase in [p, b) that is credited to the click
    conversion C  D or L
    micro         a micro behaviour in [t, min(p, t + a)) that is credited to the click
    refunded      C, which would be 0 if the purchases that are refunded in time did not count

Which key that is, which events count and who has the credit: `features.attribution`. Events at the
click's own timestamp come after the click (logs of hour or day resolution).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdcm.core.config import LabelsConfig
from cmdcm.datasets.calendar import DAY_MS
from cmdcm.features.windows import NEVER, Bools, Int64s, first_at_or_after, window_sums

Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class PairEvents:
    """Events of one kind, sorted by (group, time); see `features.windows`.

    Attributes:
        times: [events], UTC ms.
        starts: [groups + 1].
        quantity: [events], pieces; None where they are not summed.
        value: [events], price of all pieces; None where it is not summed.
    """

    times: Int64s
    starts: Int64s
    quantity: Int64s | None = None
    value: Floats | None = None

    def first(self, groups: Int64s, instants: Int64s) -> Int64s:
        """Time of the first event at or after each instant, else `NEVER`."""
        return np.asarray(first_at_or_after(self.times, self.starts, groups, instants), np.int64)

    def sums(self, name: str, groups: Int64s, since: Int64s, until: Int64s) -> Columns:
        """Quantity and value of the events in [since, until), as far as there are such columns."""
        amounts = {
            f"{name}_quantity": (self.quantity, np.int64),
            f"{name}_value": (self.value, np.float32),
        }
        return {
            column: window_sums(self.times, of, self.starts, groups, since, until).astype(dtype)
            for column, (of, dtype) in amounts.items()
            if of is not None
        }


@dataclass(frozen=True)
class Periods:
    """How long events count, and how long refunds are awaited, in ms.

    Attributes:
        direct: Attribution time of direct purchases and intent events.
        delayed: The same of purchases on the promotion days; None without a limit.
        refund: How long after a purchase its refund may come; 0 where no label goes by refunds.
        cancel: Whether a refund cancels its purchase for all labels, not for `refunded` alone.
    """

    direct: int
    delayed: int | None = None
    refund: int = 0
    cancel: bool = True

    @classmethod
    def of(cls, config: LabelsConfig) -> "Periods":
        """Returns the periods of the settings."""
        return cls(
            direct=round(config.attribution_days * DAY_MS),
            delayed=round(config.delayed_days * DAY_MS) if config.delayed_days else None,
            refund=round(config.refund_days * DAY_MS)
            if config.refunds == "cancel" or config.refunded
            else 0,
            cancel=config.refunds == "cancel",
        )

    def ends(self, clicks_ms: Int64s, bounds_ms: Int64s) -> tuple[Int64s, Int64s]:
        """Returns until when direct and delayed purchases of clicks count, exclusive, [clicks].

        Args:
            clicks_ms: [clicks].
            bounds_ms: [clicks, 3]: pre-promotion start, promotion start and end of each click's
                promotion.
        """
        start, end = bounds_ms[:, 1], bounds_ms[:, 2]
        if self.delayed is not None:
            end = np.maximum(start, np.minimum(end, clicks_ms + self.delayed))
        return np.minimum(start, clicks_ms + self.direct), end

    def known(self, clicks_ms: Int64s, bounds_ms: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Returns when labels of clicks are known, [clicks] each.

        Args:
            clicks_ms: [clicks].
            bounds_ms: [clicks, 3], as `ends` takes them.

        Returns:
            When direct, cart and micro are; when all but refunded are; when all labels are.
        """
        direct, delayed = self.ends(clicks_ms, bounds_ms)
        wait = self.refund if self.cancel else 0
        return direct + wait, delayed + wait, delayed + self.refund


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
    groups: Int64s,
    next_click_ms: Int64s,
    purchases: PairEvents,
    intents: PairEvents,
    periods: Periods,
    micros: PairEvents | None = None,
    kept: PairEvents | None = None,
) -> tuple[Labels, Columns]:
    """Labels clicks.

    Args:
        clicks_ms: [clicks].
        bounds_ms: [clicks, 3]: pre-promotion start, promotion start and end of each click's
            promotion.
        groups: [clicks], the click's (user, key) group.
        next_click_ms: [clicks], the click to which the credit passes; `NEVER` where it stays.
        purchases: All purchases that count.
        intents: All intent events.
        periods: How long they count.
        micros: All micro behaviours; None for no label `micro`.
        kept: The purchases that no refund takes back; None for no label `refunded`.

    Returns:
        The labels; and the optional columns: direct_quantity, delayed_quantity (int64),
        direct_value and delayed_value (float32), as far as `purchases` has quantities and values;
        micro (bool) with `micros`; refunded (bool) and refunded_known_ms with `kept`.
    """
    start = bounds_ms[:, 1]
    direct_end, delayed_end = periods.ends(clicks_ms, bounds_ms)
    credit_end = np.minimum(direct_end, next_click_ms)
    next_purchase = purchases.first(groups, clicks_ms)
    day_purchase = purchases.first(groups, start)
    direct = next_purchase < credit_end
    cart = intents.first(groups, clicks_ms) < credit_end
    # On the promotion days the last click before them has the credit.
    delayed = ~direct & (day_purchase < delayed_end) & (next_click_ms >= start)
    bought = np.where(direct, next_purchase, np.where(delayed, day_purchase, NEVER))
    direct_known, delayed_known, all_known = periods.known(clicks_ms, bounds_ms)
    labels = Labels(
        direct=direct,
        cart=cart,
        open_cart=cart & (next_purchase >= start),
        delayed=delayed,
        conversion=direct | delayed,
        direct_known_ms=direct_known,
        delayed_known_ms=delayed_known,
        conversion_delay_ms=np.where(bought == NEVER, -1, bought - clicks_ms),
    )
    optional = {
        **purchases.sums("direct", groups, clicks_ms, credit_end),
        **purchases.sums("delayed", groups, start, np.where(delayed, delayed_end, start)),
    }
    if micros is not None:
        optional["micro"] = micros.first(groups, clicks_ms) < credit_end
    if kept is not None:
        of_day = (kept.first(groups, start) < delayed_end) & (next_click_ms >= start)
        left = (kept.first(groups, clicks_ms) < credit_end) | of_day
        optional |= {"refunded": labels.conversion & ~left, "refunded_known_ms": all_known}
    return labels, optional
