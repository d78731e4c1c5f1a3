"""The sparsity gap: how much of what can be known models learn from few labels.

In simulated worlds the truth of every click is known, so metrics are expectations over what could
have happened, without the luck of the few purchases that did: a click is a positive with the weight
of its true probability p and a negative with the weight 1 - p. With L the expected log loss,

    share to the oracle  = (L_anchor - L_model) / (L_anchor - L_oracle)
    share to the ceiling = (L_anchor - L_model) / (L_anchor - L_ceiling)

where the anchor of `conversion` is `vanilla`, today's practice, and that of any other head, which
vanilla does not have, is `rate`: the training days' rate for every click. `ceiling` (the plan's
model that is taught the truth) knows the conversion alone.

Parts: `holdout` are the validation days, on which no weights were trained, but which chose the
epoch and the calibration; `later` are the test days: of a later promotion or, in a world with one
promotion, later days of its window.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from cmdcm.core.errors import DataError
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.bench.results import Figure
from cmdcm.jobs.bench.trials import Trial
from cmdcm.jobs.commands.evaluate import oracle
from cmdcm.jobs.tables import Table, bounds, number
from cmdcm.model.bootstrap import Interval
from cmdcm.model.evaluation import ORACLE, VANILLA
from cmdcm.model.metrics import Array, auc, log_loss, pcoc
from cmdcm.model.predictions import HEADS, slice_masks

PARTS = ("holdout", "later")
RATE, CEILING, ALL = "rate", "ceiling", "all"
SHARES = {"share_oracle": ORACLE, "share_ceiling": CEILING}
"""Columns of the shares, and the end of each one's gap."""

PLACE = ("world", "seed", "part", "slice", "head")


def expected_metrics(truth: Array, predicted: Array) -> dict[str, float | None]:
    """Returns the expected AUC, log loss and PCOC of predictions.

    Args:
        truth: [rows] true probabilities.
        predicted: [rows] predicted ones.

    Example:
        >>> m = expected_metrics(np.array([0.2, 0.6]), np.array([0.3, 0.5]))
        >>> round(m["pcoc"], 6)
        1.0
    """
    labels = np.repeat([1.0, 0.0], len(truth))
    weights = np.concatenate([truth, 1 - truth])
    twice = np.concatenate([predicted, predicted])
    return {
        "auc": auc(labels, twice, weights),
        "log_loss": log_loss(labels, twice, weights),
        "pcoc": pcoc(labels, twice, weights),
    }


def measure_gaps(trials: Sequence[Trial], min_rows: int = 1000) -> pl.DataFrame:
    """Measures the finished trials of a plan.

    Args:
        trials: All models must have the same clicks in a world.
        min_rows: Slices by the users' history with fewer clicks are left out.

    Returns:
        A row for each world, seed, part, slice, head and model: rows, auc, log_loss, pcoc,
        share_oracle, share_ceiling; null where a figure or an end of its gap is not there.

    Raises:
        DataError: A world whose truth is not known.
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.world.name, trial.world.seed), []).append(trial)
    records = []
    for (name, seed), members in groups.items():
        world = members[0].world
        if world.truth is None:
            raise DataError(f"{name} is a log: its true probabilities, and its gap, are not known")
        data = ExampleSet.open(world.examples, members[0].config.split)
        rates = {head: data.total("train", head) / data.total("train") for head in HEADS}
        for part in PARTS:
            frames = {
                t.model: t.holdout() if part == "holdout" else t.predictions() for t in members
            }
            frames[ORACLE] = oracle(next(iter(frames.values())), world.truth)
            place = {"world": name, "seed": seed, "part": part}
            records += [place | row for row in _rows(frames, rates, min_rows)]
    return with_shares(pl.DataFrame(records, infer_schema_length=None))


def _rows(
    frames: dict[str, pl.DataFrame], rates: dict[str, float], min_rows: int
) -> Iterable[dict[str, object]]:
    truth = frames[ORACLE]
    masks = {ALL: np.ones(len(truth), np.bool_)}
    masks |= slice_masks(truth, min_rows)[0]["user_history"]
    for head in HEADS:
        true = truth[f"p_{head}"].to_numpy().astype(np.float64)
        predicted = {
            model: frame[f"p_{head}"].clip(upper_bound=1).to_numpy()
            for model, frame in frames.items()
            if f"p_{head}" in frame.columns
        }
        predicted[RATE] = np.full(len(true), rates[head])
        for name, mask in masks.items():
            for model, values in predicted.items():
                yield {
                    "slice": name,
                    "head": head,
                    "model": model,
                    "rows": int(mask.sum()),
                    **expected_metrics(true[mask], values[mask]),
                }


def with_shares(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds the columns of the shares; see the module."""
    anchor = pl.when(pl.col("head") == "conversion").then(pl.lit(VANILLA)).otherwise(pl.lit(RATE))

    def loss_of(model: pl.Expr) -> pl.Expr:
        return pl.col("log_loss").filter(pl.col("model") == model).first().over(PLACE)

    start = loss_of(anchor)
    return frame.with_columns(
        ((start - pl.col("log_loss")) / (start - loss_of(pl.lit(end)))).alias(name)
        for name, end in SHARES.items()
    )


def interval_of(values: pl.Series, confidence: float) -> Interval:
    """Returns the mean over the seeds with Student's t interval; nulls are left out."""
    return Figure(values.drop_nulls().to_numpy().astype(np.float64), None).interval(confidence)


def best_rival(
    frame: pl.DataFrame, model: str, rivals: Sequence[str], metric: str, confidence: float
) -> tuple[str, Interval]:
    """Returns the best rival of a model in one world, part, slice and head, and the difference.

    Args:
        frame: Rows of `measure_gaps` of that place.
        model: The model.
        rivals: Whom it is compared with, those of them that have the head.
        metric: `auc` or `log_loss`.
        confidence: Level of the interval.

    Returns:
        The rival with the best mean, and the mean of model - rival over the seeds, paired.
    """
    means = frame.filter(pl.col("model").is_in(rivals)).group_by("model").agg(pl.col(metric).mean())
    best = means.sort(metric, "model", descending=[metric == "auc", False])["model"][0]
    own, other = (frame.filter(pl.col("model") == m).sort("seed")[metric] for m in (model, best))
    return best, interval_of(own - other, confidence)


def gap_tables(frame: pl.DataFrame, confidence: float) -> list[Table]:
    """Returns a table for each world and head with all parts, and one by the users' history."""
    made = []
    for (world, head), group in frame.group_by("world", "head", maintain_order=True):
        whole = group.filter(pl.col("slice") == ALL)
        caption = f"{world}: {head}"
        made.append(_table(caption, whole, ["part"], confidence))
        sliced = group.filter(pl.col("slice") != ALL, pl.col("part") == "later")
        if len(sliced):
            made.append(
                _table(f"{caption}, later, by events before", sliced, ["slice"], confidence)
            )
    return made


def _table(caption: str, frame: pl.DataFrame, by: list[str], confidence: float) -> Table:
    rows = []
    for key, group in frame.group_by(*by, "model", maintain_order=True):
        cells = [str(value) for value in key]
        for metric, digits in (("auc", 4), ("log_loss", 5), ("pcoc", 3), *((s, 3) for s in SHARES)):
            entry = interval_of(group[metric], confidence).to_json()
            held = bounds(entry, digits, signed=False)
            cells.append(number(entry["estimate"], digits) + (f" [{held}]" if held else ""))
        rows.append(tuple(cells))
    columns = (*by, "model", "AUC", "log loss", "PCOC", "to the oracle", "to the ceiling")
    return Table(caption, columns, tuple(rows))
