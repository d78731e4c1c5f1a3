"""A bench's results as Markdown and as one HTML page, from the same tables."""

import math
from collections.abc import Sequence

import polars as pl

import cmdcm
from cmdcm.jobs.bench.plan import Plan
from cmdcm.jobs.bench.results import GAPS
from cmdcm.jobs.bench.trials import Trial, code_notes
from cmdcm.jobs.bench.tuning import Tuned
from cmdcm.jobs.bench.tuning import table as tuning_table
from cmdcm.jobs.report import METRIC_NAMES, template
from cmdcm.jobs.tables import DIGITS, Table, bounds, number, p_value, text
from cmdcm.model.evaluation import ORACLE
from cmdcm.model.multiplicity import CORRECTIONS
from cmdcm.model.predictions import ALL_HEADS

BEST = "\N{BLACK STAR}"
"""Marks the best model of a column."""

COLUMNS = (("auc", True), ("log_loss", True), ("pcoc", False))
"""Metrics of a table, and whether their difference to the baseline is shown."""


def tables(
    frame: pl.DataFrame, plan: Plan, trials: Sequence[Trial], found: Sequence[Tuned] = ()
) -> list[Table]:
    """Returns the tables of a bench.

    Args:
        frame: As `results.rows` made it.
        plan: The plan.
        trials: Its trials, for their cost.
        found: What the searches before them found.
    """
    made = []
    for world in plan.worlds:
        for head in ALL_HEADS:
            part = frame.filter(pl.col("world") == world, pl.col("head") == head)
            if len(part):
                made.append(_table(part, f"{world}: {head}", plan))
    return [*made, *([tuning_table(found)] if found else []), _costs(trials)]


def notes(plan: Plan, trials: Sequence[Trial], confidence: float, correction: str) -> list[str]:
    """Returns what a reader should know of the tables."""
    level = f"{100 * confidence:g} %"
    return [
        f"{len(plan.seeds)} seeds. {level} intervals in brackets: Student's t over the seeds, "
        "which differ in world and training; of a log, and with a single seed, the bootstrap over "
        "users.",
        f"Differences are paired, to {plan.baseline}; p is corrected over a table "
        f"({CORRECTIONS[correction]}).",
        "RI, relative improvement: (m - vanilla) / (oracle - vanilla); 0 is vanilla, 1 the oracle.",
        f"{BEST} marks the best model of a column; the oracle and models that are taught the truth "
        "are no rivals.",
        *code_notes(trials),
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
    gaps = {m: name for m, name in GAPS.items() if name in set(part["metric"])}
    rivals = [n for n in models if n != ORACLE and not plan.models[n].truth]
    best = {
        metric: _best(part, rivals, metric)
        for metric in [*(name for name, _ in COLUMNS), *gaps.values()]
    }
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
            cells.append(_measured(entry, "", DIGITS[metric]) + _mark(model, best[metric]))
            if compared:
                cells.append(_difference(entry, DIGITS[metric]))
        for name in gaps.values():
            cells.append(_measured(_entry(part, model, name), "", 3) + _mark(model, best[name]))
        rows.append(tuple(cells))
    columns += [f"RI of {METRIC_NAMES[metric]}" for metric in gaps]
    return Table(caption, tuple(columns), tuple(rows))


def _best(part: pl.DataFrame, rivals: Sequence[str], metric: str) -> str | None:
    """Returns the best model of a metric; None where there is nothing to choose from."""
    values = {name: _entry(part, name, metric)["estimate"] for name in rivals}
    held = {name: value for name, value in values.items() if value is not None}
    if len(held) < 2:
        return None
    if metric == "pcoc":
        return min(held, key=lambda name: abs(math.log(held[name])) if held[name] > 0 else math.inf)
    return (min if metric == "log_loss" else max)(held, key=held.__getitem__)


def _mark(model: str, best: str | None) -> str:
    return f" {BEST}" if model == best else ""


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
    keys = (
        "table_parameters",
        "dense_parameters",
        "training_rows",
        "epochs",
        "training_seconds",
        "examples_per_second",
        "scoring_ms",
        "parameters_read",
        "flops_per_candidate",
    )
    groups: dict[tuple[str, str], list[dict[str, float | None]]] = {}
    for trial in trials:
        groups.setdefault((trial.world.name, trial.model), []).append(trial.cost())
    rows = []
    for (world, model), costs in groups.items():
        cells = [_mean([cost.get(key) for cost in costs]) for key in keys]
        rows.append((world, model, *cells))
    return Table("Cost, mean over the seeds", ("world", "model", *keys), tuple(rows))


def _mean(values: Sequence[float | None]) -> str:
    held = [value for value in values if value is not None]
    return text(round(sum(held) / len(held), 1)) if held else number(None, 1)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
