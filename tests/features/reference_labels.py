"""The labels of the reference: which events count, for which click, and what they make of it.

Written from docs/attribution.md and docs/features.md. `timeline` is the list of all events in the
order of `reference.order`; events are told apart by identity, since equal ones may occur.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmdcm.core.config import LabelsConfig
from cmdcm.datasets.calendar import Promotion

Event = dict[str, Any]
Row = dict[str, Any]

HOUR = 60 * 60 * 1000
DAY = 24 * HOUR


def without_bots(events: Sequence[Event], most: int) -> list[Event]:
    """The events without those of a user from their first hour with more than `most` on."""
    if most == 0:
        return list(events)
    kept = []
    for event in events:
        own = [e["time"] // HOUR for e in events if e["user_id"] == event["user_id"]]
        until_now = [hour for hour in own if hour <= event["time"] // HOUR]
        if max(until_now.count(hour) for hour in until_now) <= most:
            kept.append(event)
    return kept


def clicks_that_count(timeline: Sequence[Event], labels: LabelsConfig) -> list[Event]:
    """The clicks that do not repeat another one."""
    kept: list[Event] = []
    for click in timeline:
        if click["kind"] != "click":
            continue
        earlier = [k for k in kept if same_pair(k, click)]
        if earlier and click["time"] < earlier[-1]["time"] + 1000 * labels.dedup_seconds:
            continue
        kept.append(click)
    return kept


def purchases_that_count(timeline: Sequence[Event], labels: LabelsConfig) -> list[Event]:
    """The purchases that no refund cancels."""
    if labels.refunds == "ignore":
        return [e for e in timeline if e["kind"] == "purchase"]
    return purchases_that_stay(timeline, labels)


def purchases_that_stay(timeline: Sequence[Event], labels: LabelsConfig) -> list[Event]:
    """The purchases that no refund takes back."""
    left = [e for e in timeline if e["kind"] == "purchase"]
    for refund in timeline:
        if refund["kind"] != "refund":
            continue
        until_now = [p for p in left if same_pair(p, refund) and p["time"] <= refund["time"]]
        if until_now and refund["time"] - until_now[-1]["time"] <= labels.refund_days * DAY:
            left = [p for p in left if p is not until_now[-1]]
    return left


def same_pair(one: Event, other: Event) -> bool:
    """Whether two events are of the same user and item."""
    return bool(one["user_id"] == other["user_id"] and one["item_id"] == other["item_id"])


def same_key(one: Event, other: Event, attribute_to: str) -> bool:
    """Whether two events are of the same user and item, seller or category."""
    mine, others = one[f"{attribute_to}_id"], other[f"{attribute_to}_id"]
    if mine is None and others is None:
        return same_pair(one, other)
    return bool(one["user_id"] == other["user_id"] and mine == others)


def known_times(time: int, promotion: Promotion, labels: LabelsConfig) -> tuple[int, int]:
    """When the direct labels of a click are known, and when all but `refunded` are."""
    direct, delayed = ends(time, promotion, labels)
    wait = round(labels.refund_days * DAY) if labels.refunds == "cancel" else 0
    return direct + wait, delayed + wait


def all_known(time: int, promotion: Promotion, labels: LabelsConfig) -> int:
    """When all labels of a click are known, `refunded` too."""
    _, known = known_times(time, promotion, labels)
    return known + round(labels.refund_days * DAY) if labels.refunded else known


def ends(time: int, promotion: Promotion, labels: LabelsConfig) -> tuple[int, int]:
    """Until when a direct and a delayed purchase count for a click."""
    start, end = promotion.promotion_start_ms, promotion.promotion_end_ms
    if labels.delayed_days:
        end = max(start, min(end, time + round(labels.delayed_days * DAY)))
    return min(start, time + round(labels.attribution_days * DAY)), end


def label_columns(
    click: Event,
    promotion: Promotion,
    timeline: Sequence[Event],
    clicks: Sequence[Event],
    purchases: Sequence[Event],
    labels: LabelsConfig,
) -> Row:
    """Labels of a click, which is one of `clicks`, from what followed it."""
    now, start = click["time"], promotion.promotion_start_ms
    direct_end, delayed_end = ends(now, promotion, labels)
    rivals = [c for c in clicks if same_key(c, click, labels.attribute_to)]

    def followed(events: Sequence[Event]) -> list[Event]:
        same = [e for e in events if same_key(e, click, labels.attribute_to)]
        return [e for e in same if e["time"] >= now]

    def credited(event: Event) -> bool:
        if labels.credit == "every":
            return True
        if event["time"] < start:
            return [c for c in rivals if c["time"] <= event["time"]][-1] is click
        return [c for c in rivals if c["time"] < start][-1] is click

    bought = followed(purchases)
    intents = followed([e for e in timeline if e["kind"] == labels.intent])
    directly = [e for e in bought if e["time"] < direct_end and credited(e)]
    on_day = [e for e in bought if start <= e["time"] < delayed_end and credited(e)]
    direct = len(directly) > 0
    cart = len([e for e in intents if e["time"] < direct_end and credited(e)]) > 0
    bought_before = len([e for e in bought if e["time"] < start]) > 0
    delayed = not direct and len(on_day) > 0
    made_it = directly or on_day
    direct_known, delayed_known = known_times(now, promotion, labels)
    row = {
        "direct": int(direct),
        "cart": int(cart),
        "open_cart": int(cart and not bought_before),
        "delayed": int(delayed),
        "conversion": int(direct or delayed),
        "direct_known_ms": direct_known,
        "delayed_known_ms": delayed_known,
        "conversion_delay_ms": min(e["time"] for e in made_it) - now if made_it else -1,
    }
    if labels.values:
        row |= amounts("direct", directly) | amounts("delayed", on_day if delayed else [])
    if labels.micro:
        micros = followed([e for e in timeline if e["kind"] == "micro"])
        row["micro"] = int(any(e["time"] < direct_end and credited(e) for e in micros))
    if labels.refunded:
        stay = purchases_that_stay(timeline, labels)
        made_by = [*directly, *on_day]
        stays = [e for e in made_by if any(e is other for other in stay)]
        row["refunded"] = int(len(made_by) > 0 and not stays)
        row["refunded_known_ms"] = all_known(now, promotion, labels)
    return row


def amounts(name: str, purchases: Sequence[Event]) -> Row:
    """Pieces and price of purchases: one piece, or nothing, where the log does not say."""
    pieces, price = 0, 0.0
    for purchase in purchases:
        quantity = 1 if purchase.get("quantity") is None else purchase["quantity"]
        pieces += quantity
        if purchase.get("price") is not None:
            price += purchase["price"] * quantity
    return {f"{name}_quantity": pieces, f"{name}_value": float(np.float32(price))}
