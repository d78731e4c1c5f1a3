"""Scores against the labels that have arrived: calibration by hour, version and slice.

    PCOC = sum w p / sum w y        log loss = - sum w (y ln p + (1 - y) ln (1 - p)) / sum w

on the clicks whose label is known. A direct purchase is known late, at the latest when the
promotion starts, so that `direct_so_far` tells of it earlier: the clicks of any age, each with the
share F(age) of the direct purchases that come so soon in the training data (Chapelle, Modeling
delayed feedback in display advertising, KDD 2014, with a fixed distribution of delays):

    PCOC so far = sum w p F(now - t) / sum w y(now)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import chi2

from cmdcm.core.config import MonitorConfig
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.jobs.monitor.scores import SLACK_MS
from cmdcm.model.metrics import row_log_loss

KNOWN = {
    "direct": "direct_known_ms",
    "cart": "direct_known_ms",
    "delayed": "delayed_known_ms",
    "conversion": "delayed_known_ms",
}
"""Label -> the column from whose instant on it is known; its score is `p_LABEL`."""

SO_FAR = "direct_so_far"
ALL = "all"
_MINUTE_MS = 60_000


def match(scores: pl.DataFrame, clicks: pl.DataFrame, minutes: float) -> pl.DataFrame:
    """Joins each click with the last score of its user and item before it.

    Args:
        scores: Rows of `read_scores`.
        clicks: Rows of `labelled_clicks`.
        minutes: The largest time from the score to the click.

    Returns:
        The clicks that have a score, with the columns of both.
    """
    scores = scores.with_columns((pl.col("time_ms") - SLACK_MS).alias("since_ms"))
    return (
        clicks.sort("click_time_ms")
        .join_asof(
            scores.sort("since_ms"),
            left_on="click_time_ms",
            right_on="since_ms",
            by=["user_id", "item_id"],
            strategy="backward",
            tolerance=round(minutes * _MINUTE_MS) + SLACK_MS,
            check_sortedness=False,
        )
        .filter(pl.col("version").is_not_null())
        .drop("since_ms")
    )


def calibration(
    matched: pl.DataFrame,
    delays_ms: np.ndarray,
    now_ms: int,
    calendar: PromotionCalendar,
    config: MonitorConfig,
) -> list[dict[str, Any]]:
    """Measures every head on the whole, by hour of the score, version and slice.

    Args:
        matched: Rows of `match`.
        delays_ms: Delays of the direct purchases of the training data, in any order; none, and
            `direct_so_far` is left out.
        now_ms: Until when the labels are seen.
        calendar: Gives the time zone of the hours.
        config: Bounds and confidence.

    Returns:
        For each head and group that has enough rows, however many of them are positive, because to
        choose by the outcome would bend the ratio: head, by (`all`, `hour`, `version` or the
        slice's name), value, rows, positives, pcoc, lower, upper (pcoc and upper are None without
        a positive: there is no largest ratio) and log_loss (None for `direct_so_far`).
    """
    hours = calendar.local_hours(matched["time_ms"].to_numpy())
    days = calendar.local_days(matched["time_ms"].to_numpy())
    labels = [f"{day} {hour:02d}:00" for day, hour in zip(days, hours, strict=True)]
    matched = matched.with_columns(
        pl.lit(ALL).alias("by:all"),
        pl.Series("by:hour", labels, pl.String),
        pl.col("version").cast(pl.String).alias("by:version"),
        *(
            pl.col(name).alias(f"by:{name.removeprefix('slice:')}")
            for name in matched.columns
            if name.startswith("slice:")
        ),
    )
    groups = [name for name in matched.columns if name.startswith("by:")]
    found = []
    for head, known in KNOWN.items():
        rows = matched.filter((pl.col(known) <= now_ms) & pl.col(f"p_{head}").is_not_null())
        found += _groups(head, rows, rows[f"p_{head}"], rows[head], groups, config, loss=True)
    rows = matched.filter(pl.col("p_direct").is_not_null())
    if len(delays_ms):
        ages = now_ms - rows["click_time_ms"].to_numpy()
        shares = np.searchsorted(np.sort(delays_ms), ages, side="right") / len(delays_ms)
        shares = np.where(rows["direct_known_ms"].to_numpy() <= now_ms, 1.0, shares)
        expected = pl.Series(rows["p_direct"].to_numpy() * shares)
        found += _groups(SO_FAR, rows, expected, rows["direct"], groups, config, loss=False)
    return found


def _groups(
    head: str,
    rows: pl.DataFrame,
    predicted: pl.Series,
    labels: pl.Series,
    groups: Sequence[str],
    config: MonitorConfig,
    *,
    loss: bool,
) -> list[dict[str, Any]]:
    if rows.is_empty():
        return []
    y = labels.cast(pl.Float64)
    losses = row_log_loss(y.to_numpy(), predicted.to_numpy()) if loss else np.zeros(len(rows))
    table = rows.select(*groups, w=pl.col("weight"), p=predicted, y=y, l=pl.Series(losses))
    found = []
    for group in groups:
        sums = (
            table.group_by(group)
            .agg(
                rows=pl.len(),
                positives=pl.col("y").sum(),
                w=pl.col("w").sum(),
                p=(pl.col("w") * pl.col("p")).sum(),
                y=(pl.col("w") * pl.col("y")).sum(),
                l=(pl.col("w") * pl.col("l")).sum(),
            )
            .filter((pl.col("rows") >= config.min_rows) | (group == "by:all"))
            .sort(group)
        )
        for row in sums.iter_rows(named=True):
            ratio = row["p"] / row["y"] if row["y"] > 0 else None
            found.append(
                {
                    "head": head,
                    "by": group.removeprefix("by:"),
                    "value": row[group] or "",
                    "rows": row["rows"],
                    "positives": int(row["positives"]),
                    "pcoc": ratio,
                    **_interval(row, config),
                    "log_loss": row["l"] / row["w"] if loss else None,
                }
            )
    return found


def _interval(sums: Mapping[str, Any], config: MonitorConfig) -> dict[str, float | None]:
    """Returns the interval of PCOC that follows from the exact one of a Poisson number.

    For k positives its mean lies between chi2(a / 2, 2 k) / 2 and chi2(1 - a / 2, 2 k + 2) / 2
    (Garwood, Fiducial limits for the Poisson distribution, Biometrika 28, 1936).
    """
    count, tail = sums["positives"], (1 - config.confidence) / 2
    each = sums["y"] / count if count else sums["w"] / sums["rows"]
    most = float(chi2.ppf(1 - tail, 2 * count + 2)) / 2
    lower = sums["p"] / (each * most)
    if not count:
        return {"lower": lower, "upper": None}
    return {"lower": lower, "upper": sums["p"] / (each * float(chi2.ppf(tail, 2 * count)) / 2)}
