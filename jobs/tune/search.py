"""The search: Optuna's TPE proposes, processes train, the median of complete trials prunes.

    OUTPUT/study.db          Optuna's study (SQLite); one process at a time writes it
    OUTPUT/trials/0003/      a trial: its configuration, the history of each fold

Trial 0 is the given configuration, the baseline. A trial reports the mean of its losses after each
fold; all trials have the same folds in the same order.

What is proposed is a function of the seed, the trial's number and the finished trials, so that a
search with one worker that was killed and goes on proposes what an undisturbed one does. A trial
that was running when the search was killed runs again under its number, from its last checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from absl import logging
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, PreemptedError, TrainingError
from cmdcm.core.signals import Termination
from cmdcm.jobs.tune.space import Space
from cmdcm.jobs.tune.study import FAULT, SAME_AS, SCORES
from cmdcm.jobs.tune.worker import Report, Worker

TRIALS = "trials"

_POLL_S = 1.0  # how soon SIGTERM is noticed
_PREEMPTED = "told to stop; the same command goes on with the search"

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Limits:
    """How far a search goes.

    Attributes:
        trials: Trials of the study, with the baseline and those of earlier runs.
        workers: Trials at a time; the order of what is proposed is certain with 1 alone.
        prune_after: Complete trials before the first one is pruned.
        failures: Trials that fail in a row before the search stops.
    """

    trials: int
    workers: int = 1
    prune_after: int = 5
    failures: int = 5


@dataclass(frozen=True)
class Task:
    """How a trial is run.

    Attributes:
        function: Runs in a process of its own; reports a score for each `fold`, by its number: its
            `loss`, and whatever else.
        job: Makes its argument of a configuration and the trial's folder.
        clean: Deletes from the folder what an ended trial no longer needs.
        folds: How many scores there are.
    """

    function: Callable[[Any, Report], None]
    job: Callable[[Config, Path], Any]
    clean: Callable[[Path], None]
    folds: int


@dataclass
class Search:
    """A search and the trials that it is running.

    Attributes:
        study: The study.
        space: What is searched.
        base: The given configuration.
        task: How a trial is run.
        output: The output directory.
        limits: How far it goes.
    """

    study: Study
    space: Space
    base: Config
    task: Task
    output: Path
    limits: Limits
    _running: dict[Connection, tuple[Trial, Worker]] = field(default_factory=dict)
    _failures: int = 0
    _configs: dict[int, Config] = field(default_factory=dict)

    def run(self) -> None:
        """Runs the trials that are left.

        Raises:
            TrainingError: The baseline, or `limits.failures` trials in a row failed.
            PreemptedError: This process or that of a trial got SIGTERM.
        """
        try:
            with Termination() as termination:
                while not termination.asked:
                    self._start()
                    if not self._running:
                        return
                    for connection in wait(list(self._running), _POLL_S):
                        self._hear(cast(Connection, connection))
            raise PreemptedError(_PREEMPTED)
        finally:
            for _, worker in self._running.values():
                worker.stop()
            self._running.clear()

    def _start(self) -> None:
        """Starts as many trials as may run."""
        while len(self._running) < self.limits.workers and (trial := self._next()) is not None:
            try:
                config = self._config(trial)
            except ConfigError as error:
                trial.set_user_attr(FAULT, str(error))
                self._tell(trial, TrialState.PRUNED)
                continue
            twin = self._twin(config)
            if twin is not None:
                self._copy(twin, trial)
                continue
            if FAULT in trial.user_attrs:  # it failed, and the search was killed then
                trial.set_user_attr(FAULT, "")
            worker = Worker(self.task.function, self.task.job(config, self._folder(trial)))
            self._running[worker.connection] = (trial, worker)

    def _next(self) -> Trial | None:
        """Returns the trial to run: one that was interrupted, or a new one."""
        trials = self.study.get_trials(deepcopy=False)
        own = {trial.number for trial, _ in self._running.values()}
        for known in trials:
            if known.state == TrialState.RUNNING and known.number not in own:
                return Trial(self.study, known._trial_id)
        if not trials:
            self.study.enqueue_trial(self.space.params(self.base))
        begun = sum(trial.state != TrialState.WAITING for trial in trials)
        return self.study.ask() if begun < self.limits.trials else None

    def _config(self, trial: Trial) -> Config:
        """Returns a trial's configuration; draws what is not drawn yet."""
        inside = self.space.params(self.base) if trial.number == 0 else None
        # A search may be killed between any two parameters: what is drawn for all together and for
        # each of the others has a seed of its own.
        self.study.sampler = self._sampler(trial.number, 0)
        _ = trial.relative_params
        for place, dimension in enumerate(self.space.dimensions, start=1):
            if inside is None or dimension.name in inside:
                self.study.sampler = self._sampler(trial.number, place)
                dimension.suggest(trial)
        return self._config_of(trial)

    def _config_of(self, trial: Trial | FrozenTrial) -> Config:
        """Returns the configuration of a trial whose parameters are drawn."""
        if trial.number not in self._configs:
            drawn = self.base if trial.number == 0 else self.space.config(self.base, trial.params)
            self._configs[trial.number] = drawn
        return self._configs[trial.number]

    def _sampler(self, trial: int, place: int) -> optuna.samplers.BaseSampler:
        seed = np.random.SeedSequence([self.base.seed, trial, place]).generate_state(1)[0]
        return optuna.samplers.TPESampler(seed=int(seed))

    def _twin(self, config: Config) -> FrozenTrial | None:
        """Returns the finished trial that had this configuration already."""
        for known in self.study.get_trials(deepcopy=False, states=_FINISHED):
            valid = not known.user_attrs.get(FAULT)
            if valid and self._config_of(known) == config:
                return known
        return None

    def _copy(self, twin: FrozenTrial, trial: Trial) -> None:
        """Gives a trial the results of an equal one."""
        trial.set_user_attr(SAME_AS, twin.user_attrs.get(SAME_AS, twin.number))
        trial.set_user_attr(SCORES, twin.user_attrs[SCORES])
        reported = self._known(trial).intermediate_values
        for step, value in twin.intermediate_values.items():
            if step not in reported:
                trial.report(value, step)
        self._tell(trial, twin.state, twin.value if twin.state == TrialState.COMPLETE else None)

    def _hear(self, connection: Connection) -> None:
        """Takes the next message of a trial's process."""
        trial, worker = self._running[connection]
        kind, value = worker.receive()
        if kind == "report" and not self._pruned(trial, value):
            worker.go_on()
            return
        if kind == "preempted":
            raise PreemptedError(_PREEMPTED)
        worker.stop()
        del self._running[connection]
        if kind == "failed":
            self._fail(trial, value)
            return
        self._failures = 0
        if kind == "report":
            self._tell(trial, TrialState.PRUNED)
        else:
            self._tell(trial, TrialState.COMPLETE, _mean_loss(trial.user_attrs[SCORES]))

    def _pruned(self, trial: Trial, score: Mapping[str, Any]) -> bool:
        """Notes the score of a trial's fold; returns whether to prune the trial."""
        scores = trial.user_attrs.get(SCORES, [])
        step = score["fold"]
        if step == len(scores):  # else it was noted before an interruption
            scores.append(score)
            trial.set_user_attr(SCORES, scores)
        mean = _mean_loss(scores[: step + 1])
        if step not in self._known(trial).intermediate_values:
            trial.report(mean, step)
        return step + 1 < self.task.folds and self._above_median(mean, step)

    def _above_median(self, mean: float, step: int) -> bool:
        """Returns whether a mean of losses is above the median of the complete trials' at a fold.

        Optuna's MedianPruner would compare the least of a trial's means with that median: a trial
        with an easy or lucky first fold would never be pruned.
        """
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        means = [known.intermediate_values[step] for known in complete]
        return len(means) >= self.limits.prune_after and mean > float(np.median(means))

    def _fail(self, trial: Trial, fault: str) -> None:
        if trial.number == 0:  # it stays open: the same command tries it again
            raise TrainingError(f"the given configuration cannot be trained: {fault}")
        trial.set_user_attr(FAULT, fault)
        self._tell(trial, TrialState.FAIL)
        self._failures += 1
        if self._failures >= self.limits.failures:
            raise TrainingError(
                f"{self._failures} trials in a row failed, the last one with: {fault}. Narrow the "
                "space or mend the fault; the same command then goes on"
            )

    def _tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        """Ends a trial in the study and deletes what its folder no longer needs."""
        self.task.clean(self._folder(trial))
        self.study.tell(trial, value, state)
        fault = trial.user_attrs.get(FAULT, "")
        shown = f" {value:.6f}" if value is not None else ""
        logging.info("trial %d: %s%s %s", trial.number, state.name.lower(), shown, fault)

    def _known(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _folder(self, trial: Trial) -> Path:
        return self.output / TRIALS / f"{trial.number:04d}"


def _mean_loss(scores: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([score["loss"] for score in scores]))
