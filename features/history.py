"""What is summed over all users: item and category counters by hour and by promotion.

Pass one of a run takes `partition_totals` of every user partition; `History` makes their sums
searchable for pass two. Totals are plain tables of sums, so the order of partitions does not
matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.features.columns import ITEM_PROMOTIONS, USER_PROMOTIONS
from cmdcm.features.hashing import hash_ids
from cmdcm.features.timeline import Timeline
from cmdcm.features.windows import Int32s, Int64s

Totals = dict[str, pl.DataFrame]
"""Sums by name: `item_hours`, `item_promotions` and, with categories, the same of `category`."""


def total_values(name: str, count_kinds: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the values of a table of totals."""
    return tuple(count_kinds) if name.endswith("_hours") else ITEM_PROMOTIONS


@dataclass(frozen=True)
class History:
    """The searchable totals: timelines by hour and by promotion, keyed by entity."""

    hours: dict[str, Timeline]
    promotions: dict[str, Timeline]

    @classmethod
    def of(cls, parts: Sequence[Totals], count_kinds: Sequence[str]) -> "History":
        """Builds the history of the totals of all user partitions, in memory."""
        return cls._from(
            {
                name: Timeline.of(
                    pl.concat([part[name] for part in parts]), total_values(name, count_kinds)
                )
                for name in parts[0]
            }
        )

    @classmethod
    def open(cls, folder: Path, count_kinds: Sequence[str]) -> "History":
        """Maps the timelines that were written as `folder/NAME`, NAME as in `Totals`."""
        return cls._from(
            {
                path.name: Timeline.open(path, len(total_values(path.name, count_kinds)))
                for path in sorted(folder.iterdir())
            }
        )

    @classmethod
    def _from(cls, timelines: Mapping[str, Timeline]) -> "History":
        def ending(suffix: str) -> dict[str, Timeline]:
            return {
                name.removesuffix(suffix): timeline
                for name, timeline in timelines.items()
                if name.endswith(suffix)
            }

        return cls(ending("_hours"), ending("_promotions"))

    def counts(
        self,
        entity: str,
        groups: Int64s,
        hours: Int64s,
        windows_hours: Sequence[int],
        opened_ms: Int64s,
    ) -> Int32s:
        """Counts an entity's events in the complete hours before an hour.

        Args:
            entity: `item` or `category`.
            groups: [queries], as `hours[entity].find` gives them.
            hours: [queries], hours since 1970.
            windows_hours: Look-back windows.
            opened_ms: [queries], where the last window begins.

        Returns:
            [queries, kinds * windows], kind-major.
        """
        back = np.asarray(windows_hours, np.int64)
        since = np.column_stack([hours[:, None] - back, -(-opened_ms // HOUR_MS)])
        return self.hours[entity].counts(groups, hours, since)

    def promotion_sums(self) -> dict[str, list[int]]:
        """Returns, by number of the promotion, the sums of `ITEM_PROMOTIONS` over all items."""
        timeline = self.promotions["item"]
        values = np.diff(timeline.prefix, axis=0)
        return {
            str(number): values[timeline.times == number].sum(axis=0, dtype=np.int64).tolist()
            for number in np.unique(timeline.times).tolist()
        }


def promotions_before(timeline: Timeline, groups: Int64s, promotion: Int64s) -> Int32s:
    """Returns [queries, values]: sums over the promotions before those numbered `promotion`."""
    return timeline.counts(groups, promotion, np.zeros((len(groups), 1), np.int64))


def partition_totals(
    events: pl.DataFrame, calendar: PromotionCalendar, count_kinds: Sequence[str], intent: str
) -> Totals:
    """Sums one user partition for `History`.

    Args:
        events: Columns user_id, item_id, kind (`KIND_ENUM`), timestamp and, if there, category_id.
        calendar: The promotions.
        count_kinds: Event kinds that are counted.
        intent: The intent event, `cart` or `favourite`.

    Returns:
        Tables of `key` (the id's hash), `check` (another hash, for strings), `time` (hours since
        1970, or the promotion's number) and the sums.
    """
    entities = ["item"] + (["category"] if "category_id" in events.columns else [])
    timed = events.lazy().with_columns(
        time=(pl.col("timestamp").dt.epoch("ms") // HOUR_MS).cast(pl.Int32)
    )
    pairs = promotion_pairs(events, calendar, intent)
    totals: Totals = {}
    for entity in entities:
        id_ = pl.col(f"{entity}_id").alias("id")
        hours = (
            timed.filter(pl.col("kind").is_in(list(count_kinds)) & id_.is_not_null())
            .group_by(id_, "time")
            .agg((pl.col("kind") == kind).sum().cast(pl.Int32).alias(kind) for kind in count_kinds)
            .collect()
        )
        promotions = _sum(
            pairs.filter(id_.is_not_null()).with_columns(
                id=id_, time=pl.col("promotion").cast(pl.Int32)
            ),
            ITEM_PROMOTIONS,
        )
        totals[f"{entity}_hours"] = _keyed(hours)
        totals[f"{entity}_promotions"] = _keyed(promotions)
    return totals


def user_promotions(events: pl.DataFrame, calendar: PromotionCalendar, intent: str) -> Timeline:
    """Returns each user's own sums by promotion, for `Timeline.counts`."""
    pairs = promotion_pairs(events, calendar, intent)
    per_user = _sum(
        pairs.with_columns(id=pl.col("user_id"), time=pl.col("promotion").cast(pl.Int32)),
        ITEM_PROMOTIONS,
    ).with_columns(promotions_seen=(pl.col("clicks") > 0).cast(pl.Int32))
    return Timeline.of(_keyed(per_user), USER_PROMOTIONS)


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
    """Returns the distinct ids in the order of their first row, and each row's position in them.

    A null has the position -1.

    Example:
        >>> distinct, codes = factorize(pl.Series(["b", None, "a", "b"]))
        >>> distinct.to_list(), codes.tolist()
        (['b', 'a'], [0, -1, 1, 0])
    """
    distinct = ids.drop_nulls().unique(maintain_order=True)
    index = pl.DataFrame({"id": distinct, "position": np.arange(len(distinct))})
    joined = ids.alias("id").to_frame().join(index, on="id", how="left", maintain_order="left")
    return distinct, joined["position"].fill_null(-1).to_numpy().astype(np.int64)


def kind_code(kind: str) -> int:
    """Returns the physical value of an event kind."""
    return EVENT_KINDS.index(kind)


def _sum(table: pl.DataFrame, values: Sequence[str]) -> pl.DataFrame:
    return table.group_by("id", "time").agg(pl.col(list(values)).sum().cast(pl.Int32))


def _keyed(table: pl.DataFrame) -> pl.DataFrame:
    """Replaces the column `id` by its hashes."""
    ids = table["id"]
    keys = [pl.Series("key", hash_ids(ids))]
    if ids.dtype == pl.String:
        keys.append(pl.Series("check", hash_ids(ids, other=True)))
    return table.drop("id").select(*keys, pl.all())
