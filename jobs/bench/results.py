"""Results of a bench: means over the seeds, paired differences, intervals, corrected p-values.

In simulated worlds each seed draws its own users, items and initial weights, so the seeds' values
are independent: intervals and p-values are Student's t over the seeds, paired for differences. With
a single seed, and for a log, whose clicks are the same for all seeds, they are those of the
bootstrap over users, of the mean over the seeds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from cmdcm.jobs.bench.plan import Plan
from cmdcm.jobs.bench.trials import Trial
from cmdcm.jobs.commands.evaluate import oracle
from cmdcm.model.bootstrap import Interval, UserBootstrap
from cmdcm.model.evaluation import DIFFERENCES, ORACLE, VANILLA
from cmdcm.model.metrics import METRICS, summary
from cmdcm.model.multiplicity import adjusted
from cmdcm.model.predictions import heads_of

Array = npt.NDArray[np.float64]

GAPS = {"auc": "gap_closed_auc", "log_loss": "gap_closed"}
"""Relative improvement RI = (m - vanilla) / (oracle - vanilla) by its metric m, of `conversion`:
the share of the gap between these two anchors that a model closes."""


@dataclass(frozen=True)
class Figure:
    """One metric of one model and head in one world.

    Attributes:
        values: [seeds]; NaN where a seed does not define it.
        replicates: [seeds, replicates] of the bootstrap; None where the seeds are independent.
    """

    values: Array
    replicates: Array | None

    def __sub__(self, other: "Figure") -> "Figure":
        both = self.replicates is not None and other.replicates is not None
        return Figure(
            self.values - other.values,
            self.replicates - other.replicates if both else None,  # type: ignore[operator]
        )

    def interval(self, confidence: float) -> Interval:
        """Returns the mean over the seeds with its interval."""
        held = self.values[np.isfinite(self.values)]
        if not len(held):
            return Interval(None, None, None)
        mean = float(held.mean())
        if self.replicates is not None:
            means = self.replicates.mean(axis=0)
            if not np.isfinite(means).all():
                return Interval(mean, None, None)
            tail = (1 - confidence) / 2
            lower, upper = np.quantile(means, (tail, 1 - tail))
            return Interval(mean, float(lower), float(upper))
        if len(held) < 2:
            return Interval(mean, None, None)
        reach = float(stats.t.ppf((1 + confidence) / 2, len(held) - 1)) * _error(held)
        return Interval(mean, mean - reach, mean + reach)

    def p_value(self) -> float | None:
        """Returns the two-sided p-value of a mean of 0; None where there is no interval."""
        held = self.values[np.isfinite(self.values)]
        if self.replicates is not None and len(held):
            error = float(np.std(self.replicates.mean(axis=0), ddof=1))
            tail: Callable[[float], float] = NormalDist().cdf
        elif len(held) > 1:
            error = _error(held)

            def tail(z: float) -> float:
                return float(stats.t.cdf(z, len(held) - 1))

        else:
            return None
        if not error > 0:  # equal predictions
            return 1.0 if held.mean() == 0 else None
        return 2 * tail(-abs(float(held.mean())) / error)


Figures = dict[tuple[str, str, str, str], Figure]
"""By world, model, head and metric."""


def measure(trials: Sequence[Trial], track: Callable[[Sequence[Any]], Iterable[Any]]) -> Figures:
    """Reads the predictions of finished trials and computes all figures.

    Args:
        trials: Trials of one plan.
        track: Wraps the (world, seed) groups, to show progress.
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.world.name, trial.world.seed), []).append(trial)
    seeds = {world: [s for w, s in groups if w == world] for world, _ in groups}
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    replicates: dict[tuple[str, str, str, str], dict[int, Array]] = {}
    for (world, seed), members in track(list(groups.items())):
        independent = members[0].world.truth is not None and len(seeds[world]) > 1
        frames = {trial.model: trial.predictions() for trial in members}
        if members[0].world.truth is not None:
            frames[ORACLE] = oracle(next(iter(frames.values())), members[0].world.truth)
        evaluation = members[0].world.config.evaluation
        users = next(iter(frames.values()))["user_id"].to_numpy()
        # One seed of the draws for all seeds of a log, so that their replicates can be averaged.
        boot = None if independent else UserBootstrap(users, evaluation.bootstrap, 1)
        for model, frame in frames.items():
            for head in heads_of(frame):
                if f"p_{head}" not in frame.columns:
                    continue
                labels = frame[head].to_numpy()
                predicted = frame[f"p_{head}"].clip(upper_bound=1).to_numpy()
                if boot is None:
                    got = summary(labels, predicted, users, evaluation.calibration_bins)
                else:
                    result = boot.metrics(labels, predicted, evaluation.calibration_bins)
                    got = dict(result.estimates)
                    for metric in METRICS:
                        draws = replicates.setdefault((world, model, head, metric), {})
                        draws[seed] = result.replicates[metric]
                for metric in METRICS:
                    value = got[metric]
                    place = values.setdefault((world, model, head, metric), {})
                    place[seed] = float("nan") if value is None else float(value)
    figures = {
        key: Figure(
            np.array([of[seed] for seed in seeds[key[0]]]),
            np.stack([replicates[key][seed] for seed in seeds[key[0]]])
            if key in replicates
            else None,
        )
        for key, of in values.items()
    }
    return figures | _gaps(figures)


def rows(figures: Figures, plan: Plan, confidence: float, correction: str) -> pl.DataFrame:
    """Returns a row for each world, model, head and metric.

    p-values are corrected over all differences of a world and head: models x `DIFFERENCES`.
    """
    records = []
    for (world, model, head, metric), figure in figures.items():
        record: dict[str, Any] = {
            "world": world,
            "model": model,
            "head": head,
            "metric": metric,
            "seeds": int(np.isfinite(figure.values).sum()),
            **figure.interval(confidence).to_json(),
            "difference": None,
            "difference_lower": None,
            "difference_upper": None,
            "p_value": None,
        }
        base = figures.get((world, plan.baseline, head, metric))
        if model not in (plan.baseline, ORACLE) and base is not None and metric in DIFFERENCES:
            paired = figure - base
            interval = paired.interval(confidence)
            record["difference"] = interval.estimate
            record["difference_lower"], record["difference_upper"] = interval.lower, interval.upper
            record["p_value"] = paired.p_value()
        records.append(record)
    frame = pl.DataFrame(records, infer_schema_length=None)
    parts = []
    for part in frame.partition_by("world", "head", maintain_order=True):
        corrected = adjusted(part["p_value"].to_list(), correction)
        parts.append(part.with_columns(pl.Series("adjusted_p_value", corrected, dtype=pl.Float64)))
    return pl.concat(parts)


def seed_rows(figures: Figures, trials: Sequence[Trial]) -> pl.DataFrame:
    """Returns a row for each world, seed, model, head and metric: what the means are made of."""
    seeds: dict[str, list[int]] = {}
    for trial in trials:
        known = seeds.setdefault(trial.world.name, [])
        if trial.world.seed not in known:
            known.append(trial.world.seed)
    return pl.DataFrame(
        [
            {
                "world": world,
                "seed": seed,
                "model": model,
                "head": head,
                "metric": metric,
                "value": value if np.isfinite(value) else None,
            }
            for (world, model, head, metric), figure in figures.items()
            for seed, value in zip(seeds[world], figure.values.tolist(), strict=True)
        ],
        infer_schema_length=None,
    )


def _gaps(figures: Figures) -> Figures:
    gaps: Figures = {}
    for world, model, head, metric in list(figures):
        ends = [figures.get((world, name, head, metric)) for name in (VANILLA, ORACLE)]
        if head != "conversion" or metric not in GAPS or ends[0] is None or ends[1] is None:
            continue
        gain, whole = figures[world, model, head, metric] - ends[0], ends[1] - ends[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps[world, model, head, GAPS[metric]] = Figure(
                gain.values / whole.values + 0.0,
                gain.replicates / whole.replicates
                if gain.replicates is not None and whole.replicates is not None
                else None,
            )
    return gaps


def _error(values: Array) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5
