"""The results of streams: pooled over all tested clicks, and period by period."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.core.config import EvaluationConfig
from cmdcm.jobs.report import METRIC_NAMES
from cmdcm.jobs.tables import DIGITS, Table, bounds, number, p_value
from cmdcm.model.bootstrap import Interval, Replicated, UserBootstrap
from cmdcm.model.metrics import auc, log_loss, pcoc
from cmdcm.model.multiplicity import CORRECTIONS, adjusted
from cmdcm.model.online.loop import Periods

PRETRAINED, VANILLA, ORACLE = "pretrained", "vanilla", "oracle"
"""The reference rows: never trained on the stream; on what is observed; on final labels."""

SHOWN = ("auc", "pr_auc", "log_loss", "pcoc")
COMPARED = ("auc", "log_loss")

Scores = Mapping[str, npt.NDArray[np.float32]]
"""Row -> the probability of each tested click."""


def measure(
    scores: Scores,
    labels: npt.NDArray[np.int64],
    users: npt.NDArray[np.int64],
    config: EvaluationConfig,
    seed: int,
) -> pl.DataFrame:
    """Returns a row for each model and metric, over all tested clicks.

    Columns: model, metric, estimate, lower, upper; the paired difference to vanilla with its
    bounds, its p-value and that value corrected over all differences of the table; and `relative`,
    (m - vanilla) / (oracle - vanilla), with bounds where the gap between the anchors excludes zero.
    Intervals are the bootstrap over users.

    Args:
        scores: The probabilities, of `VANILLA` and `ORACLE` too.
        labels: [tested], final.
        users: [tested].
        config: Bootstrap, bins and correction.
        seed: Of the bootstrap.
    """
    boot = UserBootstrap(users, config.bootstrap, seed, config.confidence)
    results = {name: boot.metrics(labels, p, config.calibration_bins) for name, p in scores.items()}
    rows: list[dict[str, Any]] = []
    for name, result in results.items():
        intervals = boot.intervals(result)
        for metric in SHOWN:
            row = {"model": name, "metric": metric, **intervals[metric].to_json()}
            if metric in COMPARED:
                difference = boot.difference(result, results[VANILLA], metric)
                relative = _relative(boot, result, results[VANILLA], results[ORACLE], metric)
                for prefix, interval in (("difference", difference), ("relative", relative)):
                    row |= {f"{prefix}_{k}": v for k, v in interval.to_json().items()}
                if name != VANILLA:
                    row["p_value"] = boot.p_value(result, results[VANILLA], metric)
            rows.append(row)
    corrected = adjusted([row.get("p_value") for row in rows], config.correction)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(pl.Series("adjusted_p_value", corrected, dtype=pl.Float64))


def by_period(
    scores: Scores,
    labels: npt.NDArray[np.int64],
    clicks_ms: npt.NDArray[np.int64],
    periods: Periods,
) -> pl.DataFrame:
    """Returns a row for each model and tested period.

    Args:
        scores: The probabilities.
        labels: [tested], final.
        clicks_ms: [tested], increasing.
        periods: The periods.
    """
    rows = []
    for n in range(1, len(periods)):
        chosen = periods.clicks(n, clicks_ms)
        y, start = labels[chosen], int(periods.bounds_ms[n])
        for name, p in scores.items():
            row = {"model": name, "start_ms": start, "rows": len(y), "positives": int(y.sum())}
            measured = {m.__name__: m(y, p[chosen]) for m in (auc, log_loss, pcoc)}
            rows.append(row | measured)
    schema = {"auc": pl.Float64, "log_loss": pl.Float64, "pcoc": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)


def table(frame: pl.DataFrame, caption: str) -> Table:
    """Returns the pooled results as one table, a row for each model."""
    columns = ["model"]
    for metric in SHOWN:
        columns.append(METRIC_NAMES[metric])
        if metric in COMPARED:
            columns += [f"{METRIC_NAMES[metric]} - {VANILLA}", "RI"]
    rows = []
    for model in frame["model"].unique(maintain_order=True):
        cells = [model]
        for metric in SHOWN:
            entry = frame.filter(pl.col("model") == model, pl.col("metric") == metric).row(
                0, named=True
            )
            cells.append(_cell(entry, "", DIGITS[metric]))
            if metric in COMPARED:
                cells.append(_difference(entry, DIGITS[metric]))
                cells.append(_cell(entry, "relative_", 2))
        rows.append(tuple(cells))
    return Table(caption, tuple(columns), tuple(rows))


def notes(
    labels: npt.NDArray[np.int64], late: float, config: EvaluationConfig, remarks: Sequence[str]
) -> list[str]:
    """Returns what a reader should know of the table.

    Args:
        labels: [tested], final.
        late: Share of the tested conversions that come after the waiting window.
        config: Level of the intervals.
        remarks: What else there is to say.
    """
    return [
        f"{len(labels):,} tested clicks, {int(labels.sum()):,} with a conversion, {late:.1%} of "
        "them after the waiting window. All clicks of all tested periods count alike; labels are "
        "final.",
        f"{100 * config.confidence:g} % intervals in brackets: bootstrap over users, paired; one "
        f"training each. p is corrected over the table ({CORRECTIONS[config.correction]}).",
        f"RI: (m - {VANILLA}) / ({ORACLE} - {VANILLA}), 0 is {VANILLA} and 1 the {ORACLE}.",
        *remarks,
    ]


def _relative(
    boot: UserBootstrap, of: Replicated, vanilla: Replicated, oracle: Replicated, metric: str
) -> Interval:
    gap = boot.difference(oracle, vanilla, metric)
    gain = boot.difference(of, vanilla, metric).estimate
    if gain is None or not gap.estimate:
        return Interval(None, None, None)
    estimate = gain / gap.estimate + 0.0
    if not gap.excludes_zero:
        return Interval(estimate, None, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (of.replicates[metric] - vanilla.replicates[metric]) / (
            oracle.replicates[metric] - vanilla.replicates[metric]
        )
    return boot.interval(estimate, ratio)


def _difference(entry: Mapping[str, float | None], digits: int) -> str:
    shown = _cell(entry, "difference_", digits, signed=True)
    p = entry["adjusted_p_value"]
    return shown if p is None else f"{shown} p {p_value(p)}"


def _cell(
    entry: Mapping[str, float | None], prefix: str, digits: int, *, signed: bool = False
) -> str:
    interval = {k: entry[f"{prefix}{k}"] for k in ("estimate", "lower", "upper")}
    held = bounds(interval, digits, signed=signed)
    return number(interval["estimate"], digits, signed=signed) + (f" [{held}]" if held else "")
