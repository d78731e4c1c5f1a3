"""Labels of clicks as far as they are known: what has arrived, while a promotion goes on.

Examples are made of clicks whose labels are all known. Whoever watches a running promotion wants
the direct purchases before the delayed ones are: here every click has its labels as the log shows
them so far, and the instants from which each can be believed.
"""

import numpy as np
import polars as pl

from cmdcm.core.config import LabelsConfig
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.features.attribution import Attribution
from cmdcm.features.columns import LABELS
from cmdcm.features.history import factorize, locate
from cmdcm.features.labels import Periods, label

_OPTIONAL = ("seller_id", "category_id", "quantity", "price")


def labelled_clicks(
    events: pl.DataFrame, calendar: PromotionCalendar, config: LabelsConfig
) -> pl.DataFrame:
    """Labels the clicks of pre-promotion windows by the same rules as examples.

    Args:
        events: All events of some users until now, in any order: the contract's columns, kind as
            `KIND_ENUM`.
        calendar: The promotions.
        config: Which events count for a click, and how long.

    Returns:
        A row a click that is not a repeated one, in the order of (user, time): user_id, item_id,
        click_time_ms, the `LABELS` as far as the events show them (bool), direct_known_ms (of
        direct, cart and open_cart) and delayed_known_ms (of delayed and conversion), and
        direct_delay_ms, from the click to the direct purchase; null without one.
    """
    events = events.select(
        "user_id",
        "item_id",
        pl.col("timestamp").dt.epoch("ms").alias("time"),
        pl.col("kind").to_physical().cast(pl.Int64).alias("code"),
        (pl.col("kind") == "click").alias("is_click"),
        *(name for name in _OPTIONAL if name in events.columns),
    ).sort("user_id", "time", "item_id")
    if events.is_empty():
        return _table(events, {name: np.zeros(0, np.bool_) for name in LABELS}, *(_NONE,) * 3)
    items, item = factorize(events["item_id"])
    _, user = factorize(events["user_id"])
    _, pairs = np.unique(user * len(items) + item, return_inverse=True)
    attribution = Attribution.of(events, user, pairs.astype(np.int64), config)
    times = events["time"].to_numpy()
    number, phase = locate(times, calendar)
    chosen = events["is_click"].to_numpy() & (phase == 0) & ~attribution.repeated
    clicks = np.flatnonzero(chosen)
    bounds = calendar.bounds().reshape(-1, 3)
    labels, _ = label(
        times[clicks],
        bounds[number[clicks]] if len(bounds) else np.zeros((0, 3), np.int64),
        attribution.groups[clicks],
        attribution.next_click_ms[clicks],
        attribution.purchases,
        attribution.intents,
        Periods.of(config),
    )
    delays = np.where(labels.direct, labels.conversion_delay_ms, -1)
    values = {name: getattr(labels, name) for name in LABELS}
    known = labels.direct_known_ms, labels.delayed_known_ms
    return _table(events[clicks], values, *known, delays)


_NONE = np.zeros(0, np.int64)


def _table(
    clicks: pl.DataFrame,
    labels: dict[str, np.ndarray],
    direct_known: np.ndarray,
    delayed_known: np.ndarray,
    delays: np.ndarray,
) -> pl.DataFrame:
    return clicks.select("user_id", "item_id", pl.col("time").alias("click_time_ms")).with_columns(
        *(pl.Series(name, values, pl.Boolean) for name, values in labels.items()),
        pl.Series("direct_known_ms", direct_known, pl.Int64),
        pl.Series("delayed_known_ms", delayed_known, pl.Int64),
        pl.when(pl.Series(delays >= 0))
        .then(pl.Series(delays, dtype=pl.Int64))
        .alias("direct_delay_ms"),
    )
