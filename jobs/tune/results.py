"""What a study says: its trials as rows, the best one, and which settings mattered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import polars as pl
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.jobs.tune.space import Choices, Space, setting
from cmdcm.jobs.tune.study import FAULT, SAME_AS, SCORES

MIN_TRIALS = 10
"""Trials without which no importance is estimated."""

TOP = 0.25
"""Share of the trials that count as good ones for the importances."""

INVALID = "invalid"
"""State of a trial whose settings exclude each other; it was not run."""

_NUMBERS = {int: pl.Int64, float: pl.Float64}


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        number: Its number; 0 is the baseline.
        state: `complete`, `pruned`, `failed`, `invalid` or `unfinished`.
        config: Its configuration; None if it has no valid one.
        settings: Value of each setting of the space.
        losses: Log loss of each fold that it went through.
        epochs: The epoch whose weights were kept, of each of these folds.
        seconds: What training them took.
        difference: Mean difference of the losses to the baseline's; None without a fold.
        same_as: Number of the equal trial whose results it has.
        fault: Why it failed or was not valid.
    """

    number: int
    state: str
    config: Config | None
    settings: Mapping[str, Any]
    losses: tuple[float, ...]
    epochs: tuple[int, ...]
    seconds: float
    difference: float | None
    same_as: int | None
    fault: str

    @property
    def loss(self) -> float | None:
        """Mean log loss over the folds; None for a trial that did not go through all."""
        return sum(self.losses) / len(self.losses) if self.state == "complete" else None


def rows_of(study: Study, space: Space, base: Config) -> list[Row]:
    """Returns the trials of a study, by number."""
    trials = study.get_trials(deepcopy=False)
    baseline = trials[0].user_attrs.get(SCORES, []) if trials else []
    return [_row(trial, space, base, baseline) for trial in trials]


def best_of(rows: Sequence[Row]) -> Row:
    """Returns the complete trial with the least loss, of equal ones the first."""
    complete = [row for row in rows if row.loss is not None]
    return min(complete, key=lambda row: (row.loss, row.number))


def frame_of(rows: Sequence[Row], space: Space) -> pl.DataFrame:
    """Returns a row for each trial; choices are written as JSON, numbers are numbers."""
    columns: dict[str, pl.Series] = {}

    def add(name: str, dtype: Any, values: list[Any]) -> None:
        columns[name] = pl.Series(name, values, dtype=dtype)

    add("number", pl.Int64, [row.number for row in rows])
    add("state", pl.String, [row.state for row in rows])
    add("loss", pl.Float64, [row.loss for row in rows])
    add("difference", pl.Float64, [row.difference for row in rows])
    add("losses", pl.List(pl.Float64), [list(row.losses) for row in rows])
    add("epochs", pl.List(pl.Int64), [list(row.epochs) for row in rows])
    add("seconds", pl.Float64, [row.seconds for row in rows])
    add("same_as", pl.Int64, [row.same_as for row in rows])
    add("fault", pl.String, [row.fault for row in rows])
    for dimension in space.dimensions:
        values = [row.settings.get(dimension.name) for row in rows]
        if isinstance(dimension, Choices):
            shown = [None if value is None else json.dumps(value) for value in values]
            add(dimension.name, pl.String, shown)
        else:
            add(dimension.name, _NUMBERS[type(dimension.low)], values)
    return pl.DataFrame(columns)


def importances(study: Study, space: Space) -> dict[str, float]:
    """Returns each setting's share in what makes a trial one of the best quarter; none if few ran.

    By PED-ANOVA (Watanabe et al., IJCAI 2023), from the mean difference to the baseline, over its
    folds, of every trial that ran, pruned ones too: without these, where the search has been would
    decide. Trials that copied an equal one's results do not count.
    """
    trials = study.get_trials(deepcopy=False)
    ran = [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and SCORES in trial.user_attrs
        and SAME_AS not in trial.user_attrs
        # A baseline outside the space lacks a parameter.
        and len(trial.params) == len(space.dimensions)
    ]
    if len(ran) < MIN_TRIALS:
        return {}
    summary, baseline = optuna.create_study(), trials[0].user_attrs[SCORES]
    for trial in ran:
        summary.add_trial(
            optuna.trial.create_trial(
                value=mean_difference(trial.user_attrs[SCORES], baseline),
                params=trial.params,
                distributions=trial.distributions,
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP)
    names = [dimension.name for dimension in space.dimensions]
    found = optuna.importance.get_param_importances(summary, evaluator=evaluator, params=names)
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def mean_difference(
    scores: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> float:
    """Returns the mean difference of losses to the baseline's, over the folds that have both.

    Example:
        >>> mean_difference([{"loss": 0.5}], [{"loss": 0.25}, {"loss": 0.75}])
        0.25
    """
    pairs = list(zip(scores, baseline, strict=False))
    return sum(own["loss"] - base["loss"] for own, base in pairs) / len(pairs)


def _row(
    trial: FrozenTrial, space: Space, base: Config, baseline: Sequence[Mapping[str, Any]]
) -> Row:
    attributes = trial.user_attrs
    scores = attributes.get(SCORES, [])
    names = [dimension.name for dimension in space.dimensions]
    config: Config | None = base
    if trial.number:
        try:
            config = space.config(base, trial.params)
        except ConfigError:
            config = None
    settings = (
        {d.name: d.value(trial.params[d.name]) for d in space.dimensions if d.name in trial.params}
        if config is None
        else {name: setting(config, name) for name in names}
    )
    states = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed"}
    state = states.get(trial.state, "unfinished")
    if trial.state == TrialState.PRUNED:
        state = INVALID if attributes.get(FAULT) else "pruned"
    return Row(
        number=trial.number,
        state=state,
        config=config,
        settings=settings,
        losses=tuple(score["loss"] for score in scores),
        epochs=tuple(score["epoch"] for score in scores),
        seconds=0.0 if SAME_AS in attributes else sum(score["seconds"] for score in scores),
        difference=mean_difference(scores, baseline) if scores and baseline else None,
        same_as=attributes.get(SAME_AS),
        fault=attributes.get(FAULT, ""),
    )
