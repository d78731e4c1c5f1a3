"""What is summed over all users: item and category counters by hour and by promotion.

Pass one of the pipeline takes `partition_totals` of every user partition and adds them up
(`add_totals`); `History` makes them searchable for pass two. Totals are plain tables of sums, so
the order of partitions does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.features.columns import ITEM_PROMOTIONS, USER_PROMOTIONS
from cmdcm.features.windows import Int32s, Int64s, group_starts, window_counts

Totals = dict[str, pl.DataFrame]
"""Sums by name: `item_hours`, `item_promotions` and, with categories, the same of `category`."""


@dataclass(frozen=True)
class Timeline:
    """Running totals of groups over a discrete time (hours, or promotions).

    Attributes:
        ids: [groups], the distinct ids.
        times: [entries], sorted by (group, time).
        starts: [groups + 1], the entries of group g are `starts[g]:starts[g + 1]`.
        prefix: [entries + 1, values], running totals over all entries.
    """

    ids: pl.Series
    times: Int64s
    starts: Int64s
    prefix: Int32s

    @classmethod
    def of(cls, totals: pl.DataFrame, values: Sequence[str]) -> "Timeline":
        """Builds the timeline of `totals`: columns `id`, `time` and `values`, one row a pair."""
        totals = totals.sort("id", "time")
        groups = totals["id"].rle_id().to_numpy().astype(np.int64)
        ids = totals["id"].unique(maintain_order=True)
        prefix = np.zeros((len(totals) + 1, len(values)), np.int32)
        for n, value in enumerate(values):
            np.cumsum(totals[value].to_numpy(), out=prefix[1:, n])
        return cls(
            ids,
            totals["time"].to_numpy().astype(np.int64),
            group_starts(groups, len(ids)),
            prefix,
        )

    def counts(self, groups: Int64s, until: Int64s, since: Int64s) -> Int32s:
        """Returns [queries, values * windows]; see `windows.window_counts`."""
        return np.asarray(
            window_counts(self.times, self.prefix, self.starts, groups, until, since), np.int32
        )


@dataclass(frozen=True)
class History:
    """The searchable totals: timelines by hour and by promotion, keyed by entity."""

    hours: dict[str, Timeline]
    promotions: dict[str, Timeline]

    @classmethod
    def of(cls, totals: Totals, count_kinds: Sequence[str]) -> "History":
        """Builds the history of summed totals."""
        entities = [name.removesuffix("_hours") for name in totals if name.endswith("_hours")]
        return cls(
            {e: Timeline.of(totals[f"{e}_hours"], count_kinds) for e in entities},
            {e: Timeline.of(totals[f"{e}_promotions"], ITEM_PROMOTIONS) for e in entities},
        )


def partition_totals(
    events: pl.DataFrame, calendar: PromotionCalendar, count_kinds: Sequence[str], intent: str
) -> Totals:
    """Sums one user partition for `History`.

    Args:
        events: Columns user_id, item_id, kind (`KIND_ENUM`), timestamp and, if there, category_id.
        calendar: The promotions.
        count_kinds: Event kinds that are counted.
        intent: The intent event, `cart` or `favourite`.
    """
    entities = ["item"] + (["category"] if "category_id" in events.columns else [])
    timed = events.lazy().with_columns(time=pl.col("timestamp").dt.epoch("ms") // HOUR_MS)
    pairs = promotion_pairs(events, calendar, intent)
    totals: Totals = {}
    for entity in entities:
        key = pl.col(f"{entity}_id").alias("id")
        totals[f"{entity}_hours"] = (
            timed.filter(pl.col("kind").is_in(list(count_kinds)) & key.is_not_null())
            .group_by(key, "time")
            .agg((pl.col("kind") == kind).sum().cast(pl.Int32).alias(kind) for kind in count_kinds)
            .collect()
        )
        totals[f"{entity}_promotions"] = _sum(
            pairs.filter(key.is_not_null()).with_columns(id=key, time=pl.col("promotion")),
            ITEM_PROMOTIONS,
        )
    return totals


def add_totals(parts: Sequence[Totals]) -> Totals:
    """Adds the totals of several partitions."""
    return {
        name: _sum(
            pl.concat([part[name] for part in parts]),
            [c for c in parts[0][name].columns if c not in ("id", "time")],
        )
        for name in parts[0]
    }


def user_promotions(events: pl.DataFrame, calendar: PromotionCalendar, intent: str) -> Timeline:
    """Returns each user's own sums by promotion, for `Timeline.counts`."""
    pairs = promotion_pairs(events, calendar, intent)
    per_user = _sum(
        pairs.with_columns(id=pl.col("user_id"), time=pl.col("promotion")), ITEM_PROMOTIONS
    ).with_columns(promotions_seen=(pl.col("clicks") > 0).cast(pl.Int32))
    return Timeline.of(per_user, USER_PROMOTIONS)


def promotion_pairs(events: pl.DataFrame, calendar: PromotionCalendar, intent: str) -> pl.DataFrame:
    """Sums what each (user, item) did in the windows and on the days of each promotion.

    Returns:
        Columns user_id, item_id, category_id (if there), promotion (its number in the calendar)
        and the sums named in `ITEM_PROMOTIONS`.
    """
    times = events["timestamp"].dt.epoch("ms").to_numpy()
    number, phase = locate(times, calendar)
    # Of several categories the smallest: a choice that does not depend on the rows' order.
    carried = [pl.col("category_id").min()] if "category_id" in events.columns else []
    before, day = pl.col("phase") == 0, pl.col("phase") == 1
    is_click, is_intent, is_purchase = (
        pl.col("kind") == kind for kind in ("click", intent, "purchase")
    )
    pairs = (
        events.lazy()
        .with_columns(
            pl.Series("promotion", number), pl.Series("phase", phase), pl.Series("time", times)
        )
        .filter((pl.col("phase") >= 0) & (is_click | is_intent | is_purchase))
        .with_columns(
            intent=pl.when(before & is_intent).then("time"),
            purchase=pl.when(before & is_purchase).then("time"),
            clicks=(before & is_click).cast(pl.Int32),
            day_purchases=(day & is_purchase).cast(pl.Int32),
        )
        .group_by("user_id", "item_id", "promotion")
        .agg(
            *carried,
            pl.col("clicks", "day_purchases").sum(),
            first_intent=pl.col("intent").min(),
            last_purchase=pl.col("purchase").max(),
        )
        .with_columns(intents=pl.col("first_intent").is_not_null())
        .with_columns(
            open_intents=pl.col("intents")
            & (pl.col("last_purchase") < pl.col("first_intent")).fill_null(True),
        )
        .with_columns(
            intents_bought=pl.col("intents") & (pl.col("day_purchases") > 0),
            open_intents_bought=pl.col("open_intents") & (pl.col("day_purchases") > 0),
        )
        .drop("first_intent", "last_purchase")
        .collect()
    )
    return pairs.with_columns(pl.col(list(ITEM_PROMOTIONS)).cast(pl.Int32))


def locate(times_ms: Int64s, calendar: PromotionCalendar) -> tuple[Int64s, npt.NDArray[np.int8]]:
    """Finds each instant's promotion and phase.

    Returns:
        The promotion's number in the calendar, and the phase: 0 in its pre-promotion window, 1 on
        its days, -1 elsewhere (the number then means nothing).
    """
    bounds = calendar.bounds()
    if not len(bounds):
        return np.zeros(len(times_ms), np.int64), np.full(len(times_ms), -1, np.int8)
    number = np.searchsorted(bounds[:, 0], times_ms, side="right") - 1
    start = bounds[number]
    phase = np.where(times_ms < start[:, 1], 0, np.where(times_ms < start[:, 2], 1, -1))
    phase = np.where(number < 0, -1, phase).astype(np.int8)
    return np.maximum(number, 0), phase


def factorize(ids: pl.Series) -> tuple[pl.Series, Int64s]:
    """Returns the distinct ids in the order of their first row, and each row's position in them."""
    distinct = ids.drop_nulls().unique(maintain_order=True)
    return distinct, positions(ids, distinct)


def positions(ids: pl.Series, distinct: pl.Series) -> Int64s:
    """Returns the position of each id in `distinct`, -1 for null and for an id that is not there.

    Example:
        >>> positions(pl.Series(["b", "x", None, "a"]), pl.Series(["a", "b"])).tolist()
        [1, -1, -1, 0]
    """
    index = pl.DataFrame({"id": distinct, "position": np.arange(len(distinct))})
    joined = ids.alias("id").to_frame().join(index, on="id", how="left", maintain_order="left")
    return joined["position"].fill_null(-1).to_numpy().astype(np.int64)


def kind_code(kind: str) -> int:
    """Returns the physical value of an event kind."""
    return EVENT_KINDS.index(kind)


def _sum(table: pl.DataFrame, values: Sequence[str]) -> pl.DataFrame:
    return table.group_by("id", "time").agg(pl.col(list(values)).sum().cast(pl.Int32))
