"""Checks of the snapshot before anything is made of it: missing days, outages, poison, prices.

Rates are events of a kind for each click of the day. A day is compared with the median of the other
days of the same phase (no promotion, warm-up, pre-promotion window, promotion days), because
purchases belong to the promotion day and carts to the window. Medians do not follow a few bad days.
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from cmdcm.core.errors import DataError
from cmdcm.core.locations import Location
from cmdcm.core.settings.retrain import RetrainConfig
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.datasets.log import EventLog

MIN_DAYS = 3
"""Other days of a phase without which a day is not compared."""


def check_log(
    log: EventLog, calendar: PromotionCalendar, last_day: str, config: RetrainConfig
) -> dict[str, Any]:
    """Checks a snapshot.

    Args:
        log: The snapshot; a day lies in one file.
        calendar: Phases of the days.
        last_day: The last day of which events should be there (ISO).
        config: Bounds.

    Returns:
        `days`, `first_day`, `last_day` and `checked`, the number of recent days.

    Raises:
        DataError: Days are missing, or recent ones are unlike others; names the first ten.
    """
    days = [day for file in log.files for day in daily(log, file, calendar)]
    faults = list(_missing([day["day"] for day in days], last_day, config.max_missing_days))
    recent = days[-config.recent_days :]
    for day in recent:
        others = [d for d in days if d["phase"] == day["phase"] and d is not day]
        if len(others) >= MIN_DAYS:
            faults += _unlike(day, others, config)
            faults += _prices(day, days, config)
    if faults:
        raise DataError(
            f"the log is not fit to train on: {'; '.join(faults[:10])}. Deliver or mend "
            "these days, or raise the bound in [retrain]"
        )
    first = days[0]["day"]
    return {"days": len(days), "first_day": first, "last_day": last_day, "checked": len(recent)}


def daily(log: EventLog, file: Location, calendar: PromotionCalendar) -> Iterator[dict[str, Any]]:
    """Yields `day`, `phase`, events by kind and median price of each day of a file, in order."""
    columns = [name for name in ("kind", "timestamp", "price") if name in log.schema.names]
    frame = pl.read_parquet(str(file), columns=columns)
    times = frame["timestamp"].dt.epoch("ms").to_numpy()
    local = calendar.local_days(times).astype("datetime64[D]").astype(str)
    for day, part in (
        frame.with_columns(day=pl.Series(local))
        .sort("timestamp")
        .group_by("day", maintain_order=True)
    ):
        counts = part["kind"].cast(pl.String).value_counts()
        first = int(part["timestamp"].dt.epoch("ms").to_numpy()[0])
        yield {
            "day": str(day[0]),
            "phase": _phase(first, calendar),
            "kinds": dict(zip(counts["kind"], counts["count"], strict=True)),
            "price": part["price"].median() if "price" in columns else None,
        }


def _phase(instant_ms: int, calendar: PromotionCalendar) -> str:
    """The phase in which a day's first event lies."""
    for p in calendar.promotions:
        if p.warmup_start_ms <= instant_ms < p.promotion_end_ms:
            starts = np.array([p.warmup_start_ms, p.pre_promotion_start_ms, p.promotion_start_ms])
            place = int(np.searchsorted(starts, instant_ms, "right")) - 1
            return ("warm-up", "window", "promotion days")[place]
    return "no promotion"


def _missing(days: Sequence[str], last_day: str, allowed: int) -> Iterator[str]:
    first, last = date.fromisoformat(days[0]), date.fromisoformat(last_day)
    every = {(first + timedelta(n)).isoformat() for n in range((last - first).days + 1)}
    missing = sorted(every - set(days))
    if len(missing) > allowed:
        yield f"{len(missing)} days without an event: {', '.join(missing[:5])}"


def _unlike(
    day: dict[str, Any], others: Sequence[dict[str, Any]], config: RetrainConfig
) -> Iterator[str]:
    clicks = day["kinds"].get("click", 0)
    kinds = sorted({kind for d in others for kind in d["kinds"]} - {"click"})
    usual_clicks = median(d["kinds"].get("click", 0) for d in others)
    if usual_clicks >= config.min_daily_events and clicks * config.max_daily_ratio < usual_clicks:
        yield f"{day['day']} has {clicks} clicks, similar days {usual_clicks:.0f}"
        return
    for kind in kinds:
        rates = [
            d["kinds"].get(kind, 0) / d["kinds"]["click"] for d in others if d["kinds"].get("click")
        ]
        usual = median(rates) if rates else 0.0
        expected, found = usual * clicks, day["kinds"].get(kind, 0)
        if max(expected, found if usual else 0) < config.min_daily_events or not usual:
            continue
        if max(found / expected, expected / max(found, 0.5)) > config.max_daily_ratio:
            yield (
                f"{day['day']} has {found:,} events {kind} for {clicks:,} clicks, similar days "
                f"{expected:,.0f}"
            )


def _prices(
    day: dict[str, Any], others: Sequence[dict[str, Any]], config: RetrainConfig
) -> Iterator[str]:
    if sum(day["kinds"].values()) < config.min_daily_events:
        return  # the median of a few prices is whose they happen to be
    known = [d["price"] for d in others if d["price"]]
    if not known or not day["price"]:
        if known:
            yield f"{day['day']} has no prices"
        return
    ratio = day["price"] / median(known)
    if max(ratio, 1 / ratio) > config.max_price_ratio:
        yield f"{day['day']} has a median price of {day['price']:g}, others {median(known):g}"
