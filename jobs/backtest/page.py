"""The back-test as tables, for Markdown and for one HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

import cmdcm
from cmdcm.jobs.backtest.results import COMPARED, EVERY, METRICS
from cmdcm.jobs.report import METRIC_NAMES, template
from cmdcm.jobs.tables import DIGITS, Table, bounds, number

SHOWN = ("conversion", "delayed")
"""Heads whose figures are shown; the Parquet file has all."""


def notes(confidence: float, lead_days: int) -> list[str]:
    """Returns what a reader should know of the tables."""
    return [
        f"Each job saw what was known {lead_days} days before the window opened, no event later.",
        "retrained: what served after the job (the model before, where the gate refused); "
        "yesterday: what served before it; never: the first model ever accepted; ordinary: the "
        "same network trained on ordinary days alone, at the same instant; others: baselines "
        "trained at the same instant on the same examples.",
        f"Brackets: {100 * confidence:g} % intervals of the bootstrap over users. Differences are "
        "retrained less the model, paired; a gain is a negative one of log loss, a positive one of "
        "AUC.",
    ]


def tables(frame: pl.DataFrame, decided: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Returns decisions, promotions, and days."""
    made = [
        Table(
            "What the gate decided",
            ("promotion", "as of", "decision", "why"),
            tuple((d["promotion"], d["as_of"], d["outcome"], d["reason"]) for d in decided),
        )
    ]
    for head in SHOWN:
        part = frame.filter(pl.col("head") == head)
        if len(part):
            whole = part.filter(pl.col("day") == EVERY)
            made.append(_table(f"{head}: by promotion", whole, "promotion"))
    daily = frame.filter(pl.col("head") == SHOWN[0], pl.col("day") != EVERY)
    if len(daily):
        made.append(_table(f"{SHOWN[0]}: by day of the click", daily, "day"))
    return made


def page(title: str, made: Sequence[Table], remarks: Sequence[str]) -> str:
    """Returns the page; it loads nothing, and all text is escaped."""
    return template("gate.html.j2").render(
        version=cmdcm.__version__, title=title, notes=remarks, tables=made
    )


def _table(caption: str, part: pl.DataFrame, key: str) -> Table:
    columns = [key, "model", "clicks", "positives"]
    for metric in METRICS:
        columns.append(METRIC_NAMES[metric])
        if metric in COMPARED:
            columns.append(f"retrained - model, {METRIC_NAMES[metric]}")
    rows = []
    for (place, model), group in part.group_by([key, "model"], maintain_order=True):
        entries = {row["metric"]: row for row in group.iter_rows(named=True)}
        first = entries[METRICS[0]]
        cells = [str(place), str(model), f"{first['rows']:,}", f"{first['positives']:,}"]
        for metric in METRICS:
            entry = entries[metric]
            cells.append(_shown(entry, "estimate", "", DIGITS[metric]))
            if metric in COMPARED:
                cells.append(_shown(entry, "difference", "difference_", DIGITS[metric]))
        rows.append(tuple(cells))
    return Table(caption, tuple(columns), tuple(rows))


def _shown(entry: Mapping[str, Any], value: str, prefix: str, digits: int) -> str:
    if entry[value] is None:
        return ""
    signed = bool(prefix)
    ends = {"lower": entry[f"{prefix}lower"], "upper": entry[f"{prefix}upper"]}
    held = bounds(ends, digits, signed=signed)
    return number(entry[value], digits, signed=signed) + (f" [{held}]" if held else "")
