"""What is left out of a log before anything is counted: the events of bots."""

import polars as pl

from cmdcm.datasets.calendar import HOUR_MS


def drop_bots(events: pl.DataFrame, max_events_per_hour: int) -> pl.DataFrame:
    """Drops what users did from their first hour of too many events on.

    A user's events are dropped from the start of the first clock hour (UTC) that holds more than
    `max_events_per_hour` of them. Earlier events stay, so what is known at an instant depends on
    no later hour: features of complete hours and of clicks that stay are point in time.

    Args:
        events: All events of some users, in any order; columns user_id and timestamp at least.
        max_events_per_hour: Events of any kind that a user may make in a clock hour; 0 for no
            limit.

    Returns:
        The events that stay, in the order in which they came.

    Example:
        >>> times = pl.Series([0, 1, 2, 3, 4], dtype=pl.Int64) * 1_800_000
        >>> log = pl.DataFrame({"user_id": 7, "timestamp": times.cast(pl.Datetime("ms", "UTC"))})
        >>> len(drop_bots(log, 2)), len(drop_bots(log, 1))
        (5, 0)
    """
    if not max_events_per_hour:
        return events
    hour = pl.col("timestamp").dt.epoch("ms") // HOUR_MS
    bots = (
        events.lazy()
        .group_by("user_id", bot_since=hour)
        .len()
        .filter(pl.col("len") > max_events_per_hour)
        .group_by("user_id")
        .agg(pl.col("bot_since").min())
        .collect()
    )
    if bots.is_empty():
        return events
    return (
        events.join(bots, on="user_id", how="left", maintain_order="left")
        .filter((hour < pl.col("bot_since")).fill_null(True))
        .drop("bot_since")
    )
