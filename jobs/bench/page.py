"""A bench's results as Markdown and as one HTML page, from the same tables."""

from collections.abc import Sequence

import polars as pl

import cmdcm
from cmdcm.jobs.bench.plan import Plan
from cmdcm.jobs.bench.results import GAP
from cmdcm.jobs.bench.trials import Trial
from cmdcm.jobs.report import METRIC_NAMES, template
from cmdcm.jobs.tables import DIGITS, Table, bounds, number, p_value, text
from cmdcm.model.evaluation import ORACLE
from cmdcm.model.multiplicity import CORRECTIONS
from cmdcm.model.predictions import HEADS

COLUMNS = (("auc", True), ("log_loss", True), ("pcoc", False))
"""Metrics of a table, and whether their difference to the baseline is shown."""


def tables(frame: pl.DataFrame, plan: Plan, trials: Sequence[Trial]) -> list[Table]:
    """Returns the tables of a bench.

    Args:
        frame: As `results.rows` made it.
        plan: The plan.
        trials: Its trials, for their cost.
    """
    made = []
    for world in plan.worlds:
        for head in HEADS:
            part = frame.filter(pl.col("world") == world, pl.col("head") == head)
            if len(part):
                made.append(_table(part, f"{world}: {head}", plan))
    return [*made, _costs(trials)]


def notes(plan: Plan, confidence: float, correction: str) -> list[str]:
    """Returns what a reader should know of the tables."""
    level = f"{100 * confidence:g} %"
    return [
        f"{len(plan.seeds)} seeds. {level} intervals in brackets: Student's t over the seeds, "
        "which differ in world and training; of a log, and with a single seed, the bootstrap over "
        "users.",
        f"Differences are paired, to {plan.baseline}; p is corrected over a table "
        f"({CORRECTIONS[correction]}).",
        "Gap closed: share of the log-loss gap from vanilla to oracle.",
    ]


def markdown(title: str, made: Sequence[Table], remarks: Sequence[str]) -> str:
    """Returns the results as Markdown."""
    lines = [f"# {title}", "", *(f"- {remark}" for remark in remarks), ""]
    for table in made:
        lines += [
            f"## {table.caption}",
            "",
            _line(table.columns),
            _line(["---"] * len(table.columns)),
        ]
        lines += [*map(_line, table.rows), ""]
    return "\n".join(lines)


def page(title: str, made: Sequence[Table], remarks: Sequence[str], settings: list[Table]) -> str:
    """Returns the results as one HTML page that loads nothing."""
    return template("bench.html.j2").render(
        version=cmdcm.__version__, title=title, tables=made, notes=remarks, settings=settings
    )


def _table(part: pl.DataFrame, caption: str, plan: Plan) -> Table:
    models = [n for n in [*plan.models, ORACLE] if n in set(part["model"])]
    gap = GAP in set(part["metric"])
    columns = ["model"]
    for metric, compared in COLUMNS:
        columns.append(METRIC_NAMES[metric])
        if compared:
            columns.append(f"{METRIC_NAMES[metric]} - {plan.baseline}")
    rows = []
    for model in models:
        cells = [model]
        for metric, compared in COLUMNS:
            entry = _entry(part, model, metric)
            cells.append(_measured(entry, "", DIGITS[metric]))
            if compared:
                cells.append(_difference(entry, DIGITS[metric]))
        if gap:
            cells.append(_measured(_entry(part, model, GAP), "", 3))
        rows.append(tuple(cells))
    return Table(caption, (*columns, "gap closed") if gap else tuple(columns), tuple(rows))


def _entry(part: pl.DataFrame, model: str, metric: str) -> dict[str, float | None]:
    found = part.filter(pl.col("model") == model, pl.col("metric") == metric)
    return found.row(0, named=True)


def _measured(entry: dict[str, float | None], prefix: str, digits: int) -> str:
    name = prefix or "estimate"
    ends = ("lower", "upper") if not prefix else (f"{prefix}_lower", f"{prefix}_upper")
    interval = {"estimate": entry[name], "lower": entry[ends[0]], "upper": entry[ends[1]]}
    held = bounds(interval, digits, signed=bool(prefix))
    return number(interval["estimate"], digits, signed=bool(prefix)) + (
        f" [{held}]" if held else ""
    )


def _difference(entry: dict[str, float | None], digits: int) -> str:
    if entry["difference"] is None:
        return ""
    shown = _measured(entry, "difference", digits)
    return f"{shown} p {p_value(entry['adjusted_p_value'])}"


def _costs(trials: Sequence[Trial]) -> Table:
    keys = ("table_parameters", "dense_parameters", "training_rows", "epochs", "training_seconds")
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for trial in trials:
        groups.setdefault((trial.world.name, trial.model), []).append(trial.cost())
    rows = []
    for (world, model), costs in groups.items():
        means = [sum(cost[key] for cost in costs) / len(costs) for key in keys]
        rows.append((world, model, *(text(round(mean, 1)) for mean in means)))
    return Table("Cost, mean over the seeds", ("world", "model", *keys), tuple(rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
