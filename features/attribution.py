"""Which events decide the labels of a click, and which click has the credit (docs/attribution.md).

| term           | meaning                                                                       |
|----------------|-------------------------------------------------------------------------------|
| repeated click | less than `dedup_seconds` after the last click of the same (user, item) that  |
|                | is not repeated itself                                                        |
| cancelled      | of a refund's (user, item) the latest purchase until then that is not         |
|                | cancelled yet, if it is at most `refund_days` old                             |
| key            | the item; or its seller or category, and the item where that is missing       |
| credit         | of every click; or of the last one alone, until the next click of the same    |
|                | (user, key) that is not repeated                                              |

Of one timestamp, the later event in the order of the partition's rows is the later one.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from cmdcm.core.config import LabelsConfig
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.features.labels import Floats, PairEvents, Periods
from cmdcm.features.windows import (
    NEVER,
    Bools,
    Int64s,
    cancelled_purchases,
    group_starts,
    repeated_clicks,
)


@dataclass(frozen=True)
class Attribution:
    """What decides the labels of a partition's clicks.

    Attributes:
        groups: [events], number of the event's (user, key).
        repeated: [events], whether the event is a repeated click.
        next_click_ms: [events], of a click the time of the one to which its credit passes; `NEVER`
            where it stays.
        purchases: The purchases that are not cancelled.
        intents: The intent events.
        micros: The micro behaviours; None without the label `micro`.
        kept: The purchases that no refund takes back; None without the label `refunded`.
    """

    groups: Int64s
    repeated: Bools
    next_click_ms: Int64s
    purchases: PairEvents
    intents: PairEvents
    micros: PairEvents | None = None
    kept: PairEvents | None = None

    @classmethod
    def of(
        cls, events: pl.DataFrame, users: Int64s, pairs: Int64s, config: LabelsConfig
    ) -> "Attribution":
        """Applies the settings to the events of a partition.

        Args:
            events: In the order of (user, time): columns time (UTC ms), code (position in
                `EVENT_KINDS`) and, as the settings need them and the log has them, seller_id,
                category_id, quantity and price.
            users: [events], number of the user.
            pairs: [events], number from 0 of the (user, item).
            config: The settings.
        """
        times, kinds = events["time"].to_numpy(), events["code"].to_numpy()
        clicks, purchases, refunds, intents = (
            np.flatnonzero(kinds == EVENT_KINDS.index(kind))
            for kind in ("click", "purchase", "refund", config.intent)
        )
        repeated = np.zeros(len(times), np.bool_)
        if config.dedup_seconds:
            of_pair = _by_group(clicks, pairs)
            gap = 1000 * config.dedup_seconds
            repeated[of_pair] = repeated_clicks(times[of_pair], pairs[of_pair], gap)
        kept = purchases
        if config.refunds == "cancel" or config.refunded:
            either = np.concatenate([purchases, refunds])
            # A purchase of a refund's own timestamp comes before it.
            either = either[np.lexsort((either, kinds[either], times[either], pairs[either]))]
            is_refund = kinds[either] == EVENT_KINDS.index("refund")
            within = Periods.of(config).refund
            gone = cancelled_purchases(times[either], pairs[either], is_refund, within)
            kept = np.sort(either[~gone & ~is_refund])
        if config.refunds == "cancel":
            purchases = kept
        groups = pairs
        if config.attribute_to != "item":
            groups = _groups_of(events[f"{config.attribute_to}_id"], users, pairs)
        next_click = np.full(len(times), NEVER, np.int64)
        if config.credit == "last":
            of_group = _by_group(clicks[~repeated[clicks]], groups)
            before, after = of_group[:-1], of_group[1:]
            same = groups[before] == groups[after]
            next_click[before[same]] = times[after[same]]
        count = int(groups.max()) + 1

        def grouped(rows: Int64s) -> PairEvents:
            rows = _by_group(rows, groups)
            return PairEvents(times[rows], group_starts(groups[rows], count))

        purchases = _by_group(purchases, groups)
        quantity, value = _amounts(events[purchases], config)
        micros = np.flatnonzero(kinds == EVENT_KINDS.index("micro"))
        return cls(
            groups,
            repeated,
            next_click,
            PairEvents(times[purchases], group_starts(groups[purchases], count), quantity, value),
            grouped(intents),
            grouped(micros) if config.micro else None,
            grouped(kept) if config.refunded else None,
        )


def _groups_of(ids: pl.Series, users: Int64s, pairs: Int64s) -> Int64s:
    """Numbers from 0 the (user, id) of each event; the (user, item) where the id is missing."""
    codes = ids.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    keys = users * (codes.max() + 1) + codes
    keys = np.where(codes > 0, keys, -1 - pairs)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _amounts(purchases: pl.DataFrame, config: LabelsConfig) -> tuple[Int64s | None, Floats | None]:
    """Pieces of each purchase, and their price; None what is not asked for or not there."""
    if not config.values:
        return None, None
    quantity = np.ones(len(purchases), np.int64)
    if "quantity" in purchases.columns:
        quantity = purchases["quantity"].fill_null(1).to_numpy().astype(np.int64)
    if "price" not in purchases.columns:
        return quantity, None
    return quantity, purchases["price"].fill_null(0).to_numpy() * quantity


def _by_group(rows: Int64s, groups: Int64s) -> Int64s:
    """Orders rows by group, and within a group as they are."""
    return np.asarray(rows[np.argsort(groups[rows], kind="stable")])
