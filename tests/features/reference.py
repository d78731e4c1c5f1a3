"""An independent reference of the feature engine: plain Python over lists of events, and slow.

Written from the definitions in the handbook (docs/features.md), not from the engine: every value of
every row is found by looking at all events again. Shares nothing with the engine but the settings
and the calendar's instants.

An event is a dictionary with `user_id`, `item_id`, `kind`, `time` (UTC ms) and the log's optional
columns, None where a value is missing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from cmdcm.core.config import FeaturesConfig, LabelsConfig
from cmdcm.datasets.calendar import Promotion, PromotionCalendar
from cmdcm.tests.features.reference_labels import (
    DAY,
    HOUR,
    Event,
    Row,
    all_known,
    clicks_that_count,
    label_columns,
    purchases_that_count,
    without_bots,
)

__all__ = ["DAY", "HOUR", "Event", "Row"]

KIND_ORDER = ("impression", "click", "micro", "favourite", "cart", "purchase", "refund")
ENTITY_COLUMNS = ("category_id", "seller_id", "brand_id", "price")
SEQUENCE_KINDS = (
    ("clicked", "click"),
    ("favourited", "favourite"),
    ("carted", "cart"),
    ("purchased", "purchase"),
)


def reference_examples(
    events: Sequence[Event],
    columns: Sequence[str],
    calendar: PromotionCalendar,
    features: FeaturesConfig,
    labels: LabelsConfig,
    observed_until_ms: int,
    missing_category: int | str = 0,
) -> list[Row]:
    """Returns the examples of a whole log in the order of the engine.

    Args:
        events: All events of all users, in any order.
        columns: The log's columns.
        calendar: The promotions.
        features: Windows, lengths and kinds.
        labels: Which events count for a click, and how long.
        observed_until_ms: End of what the log shows.
        missing_category: What stands in a sequence for a category that is not known.
    """
    # Copies, since events are told apart by identity.
    events = [dict(e) for e in without_bots(events, features.max_events_per_hour)]
    timeline = sorted(events, key=order)
    clicks = clicks_that_count(timeline, labels)
    purchases = purchases_that_count(timeline, labels)
    anchors = []
    for click in clicks:
        promotion = open_window(click["time"], calendar)
        if promotion is None:
            continue
        if all_known(click["time"], promotion, labels) <= observed_until_ms:
            anchors.append((click, promotion))
    zone = ZoneInfo(calendar.timezone)
    anchors.sort(key=lambda anchor: (local_time(anchor[0]["time"], zone).date(), *order(anchor[0])))
    rows = []
    for click, promotion in anchors:
        row: Row = {"user_id": click["user_id"], "item_id": click["item_id"]}
        for column in ENTITY_COLUMNS:
            if column in columns:
                row[column] = click[column]
        if "price" in columns and click["price"] is not None:
            row["price"] = float(np.float32(click["price"]))
        row |= own_features(click, promotion, events, columns, features, missing_category)
        row |= shared_features(click, promotion, events, columns, features)
        row |= promotion_features(click, events, columns, calendar, labels.intent)
        row |= context_features(click, promotion, zone)
        row |= label_columns(click, promotion, timeline, clicks, purchases, labels)
        row["promotion"] = promotion.name
        row["click_time_ms"] = click["time"]
        known = all_known(click["time"], promotion, labels)
        row["observation_time_ms"] = min(observed_until_ms, known)
        rows.append(row)
    return rows


def order(event: Event) -> tuple[Any, ...]:
    """A user's events in order: time, kind, item, the item's columns, quantity; None first."""
    others = [event.get(column) for column in (*ENTITY_COLUMNS, "quantity")]
    return (
        event["user_id"],
        event["time"],
        KIND_ORDER.index(event["kind"]),
        event["item_id"],
        *((value is not None, value) if value is not None else (False,) for value in others),
    )


def open_window(time: int, calendar: PromotionCalendar) -> Promotion | None:
    """The promotion in whose pre-promotion window an instant lies."""
    for promotion in calendar.promotions:
        if promotion.pre_promotion_start_ms <= time < promotion.promotion_start_ms:
            return promotion
    return None


def local_time(time: int, zone: ZoneInfo) -> datetime:
    """The local date and time of an instant, to the second."""
    return datetime.fromtimestamp(time // 1000, zone)


def own_features(
    click: Event,
    promotion: Promotion,
    events: Sequence[Event],
    columns: Sequence[str],
    features: FeaturesConfig,
    missing_category: int | str,
) -> Row:
    """What the click's own user did, strictly before the click."""
    now = click["time"]
    past = [e for e in events if e["user_id"] == click["user_id"] and e["time"] < now]
    on_item = [e for e in past if e["item_id"] == click["item_id"]]
    since = [now - hours * HOUR for hours in features.windows_hours]
    since.append(promotion.pre_promotion_start_ms)

    def counts(some: Sequence[Event]) -> list[int]:
        result = []
        for kind in features.count_kinds:
            for start in since:
                result.append(len([e for e in some if e["kind"] == kind and e["time"] >= start]))
        return result

    row: Row = {
        "user_history": len([e for e in past if e["kind"] != "impression"]),
        "user_counts": counts(past),
        "user_item_counts": counts(on_item),
    }
    if "category_id" in columns:
        in_category = []
        if click["category_id"] is not None:
            in_category = [e for e in past if e["category_id"] == click["category_id"]]
        row["user_category_counts"] = counts(in_category)
    for name, kind in SEQUENCE_KINDS:
        length = features.clicked_length if kind == "click" else features.intent_length
        newest_first = sorted((e for e in past if e["kind"] == kind), key=order, reverse=True)
        last = newest_first[:length]
        row[f"{name}_item_ids"] = [e["item_id"] for e in last]
        row[f"{name}_ages"] = [(now - e["time"]) // 1000 for e in last]
        if "category_id" in columns:
            row[f"{name}_category_ids"] = [
                missing_category if e["category_id"] is None else e["category_id"] for e in last
            ]
    return row


def shared_features(
    click: Event,
    promotion: Promotion,
    events: Sequence[Event],
    columns: Sequence[str],
    features: FeaturesConfig,
) -> Row:
    """What all users did on the item and its category, in complete UTC hours before the click's."""
    this_hour = click["time"] // HOUR
    row: Row = {}
    for entity in ("item", "category"):
        if f"{entity}_id" not in columns:
            continue
        key = click[f"{entity}_id"]
        same = [e for e in events if key is not None and e[f"{entity}_id"] == key]
        result = []
        for kind in features.count_kinds:
            hours = [e["time"] // HOUR for e in same if e["kind"] == kind]
            hours = [hour for hour in hours if hour < this_hour]
            for length in features.windows_hours:
                result.append(len([hour for hour in hours if hour >= this_hour - length]))
            opened = promotion.pre_promotion_start_ms
            result.append(len([hour for hour in hours if hour * HOUR >= opened]))
        row[f"{entity}_counts"] = result
    return row


def promotion_features(
    click: Event,
    events: Sequence[Event],
    columns: Sequence[str],
    calendar: PromotionCalendar,
    intent: str,
) -> Row:
    """What happened in the promotions that were over at the click, summed over them."""
    row: Row = {}
    for entity in ("user", "item", "category"):
        if f"{entity}_id" not in columns:
            continue
        key = click[f"{entity}_id"]
        seen = clicks = intents = intents_bought = open_intents = bought = purchases = 0
        for promotion in calendar.promotions:
            if promotion.promotion_end_ms > click["time"] or key is None:
                continue
            clicks_before = clicks
            for pair in pairs_of(promotion, events, intent):
                if pair_key(pair, entity) != key:
                    continue
                before = [e for e in pair if e["time"] < promotion.promotion_start_ms]
                day = [e for e in pair if e["time"] >= promotion.promotion_start_ms]
                clicks += len([e for e in before if e["kind"] == "click"])
                bought_on_day = len([e for e in day if e["kind"] == "purchase"])
                purchases += bought_on_day
                carted = [e["time"] for e in before if e["kind"] == intent]
                if carted:
                    intents += 1
                    intents_bought += 1 if bought_on_day else 0
                    paid = [e["time"] for e in before if e["kind"] == "purchase"]
                    if not [time for time in paid if time >= min(carted)]:
                        open_intents += 1
                        bought += 1 if bought_on_day else 0
            seen += 1 if clicks > clicks_before else 0
        sums = [clicks, intents, intents_bought, open_intents, bought, purchases]
        row[f"{entity}_promotions"] = [seen, *sums] if entity == "user" else sums
    return row


def pairs_of(promotion: Promotion, events: Sequence[Event], intent: str) -> list[list[Event]]:
    """The clicks, intent events and purchases of each (user, item) from window start to end."""
    pairs: dict[tuple[Any, Any], list[Event]] = {}
    for event in events:
        inside = promotion.pre_promotion_start_ms <= event["time"] < promotion.promotion_end_ms
        if inside and event["kind"] in ("click", intent, "purchase"):
            pairs.setdefault((event["user_id"], event["item_id"]), []).append(event)
    return list(pairs.values())


def pair_key(pair: Sequence[Event], entity: str) -> Any:
    """Whose sums a pair adds to; of several categories the smallest."""
    if entity != "category":
        return pair[0][f"{entity}_id"]
    return min((e["category_id"] for e in pair if e["category_id"] is not None), default=None)


def context_features(click: Event, promotion: Promotion, zone: ZoneInfo) -> Row:
    """The moment of the click."""
    local = local_time(click["time"], zone)
    hours = (promotion.promotion_start_ms - click["time"]) / HOUR
    return {
        "hours_to_promotion": float(np.float32(hours)),
        "hour_of_day": local.hour,
        "weekday": local.weekday(),
        "promotion_kind": promotion.kind,
    }
