"""An equal tuning budget: a search for each model in each world, before its trials.

    OUTPUT/tuning/WORLD-SEED-KEY/MODEL-KEY/     the study (`cmdcm tune`), and trials.parquet

Every model gets the same number of trials, the given settings among them, on the examples of the
world's first seed: it trains on all promotions before the last one ahead of the test split, and
that one's validation log loss of `conversion` counts. All seeds are then trained with the best
settings. A search that was stopped goes on; one with other settings, examples or another space is
another folder. A model that is taught the truth is searched on outcomes, as all others are. A model
that goes on from a base is not searched: it takes what the search of its base found, as the weights
that it starts with fit those settings alone.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import staged_file
from cmdcm.core.progress import track_progress
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.bench.plan import Plan
from cmdcm.jobs.bench.trials import Trial, prepare_worlds, trial_key
from cmdcm.jobs.tables import Table, number, text
from cmdcm.jobs.tune.folds import folds_of
from cmdcm.jobs.tune.space import Space, load_space, setting

HEAD = "conversion"
TRIALS = "trials.parquet"


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        world: The world's name.
        model: The model's name.
        trials: Trials of the search.
        number: The best one's; 0 is the given settings.
        before: Validation log loss of the given settings.
        after: Of the best ones.
        settings: The best ones.
        config: The best configuration.
    """

    world: str
    model: str
    trials: int
    number: int
    before: float
    after: float
    settings: dict[str, Any]
    config: Config


def tune(
    trials: Sequence[Trial], plan: Plan, output: Path, workers: int = 0, *, progress: bool = True
) -> tuple[list[Trial], list[Tuned]]:
    """Searches settings for each model and world.

    Args:
        trials: As `trials_of` returned them.
        plan: Their plan.
        output: Their directory.
        workers: Trials of a search at a time, 0 for one a core; with 1 a search is reproducible.
        progress: Show progress bars on stderr.

    Returns:
        The trials with the best settings, and what was found; the trials as they are and nothing
        where the plan has no budget.

    Raises:
        ConfigError: A space that cannot be used, or Optuna is not installed.
        TrainingError: The given settings of a model cannot be trained.
    """
    if not plan.tune:
        return list(trials), []
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError('a plan with `tune` needs Optuna: pip install "cmdcm[tune]"')
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.base is None:
            groups.setdefault((trial.world.name, trial.model), []).append(trial)
    spaces = {m: load_space(plan.models[m].space or plan.space) for m in plan.models}
    prepare_worlds([members[0] for members in groups.values()], workers, progress=progress)
    found: list[Tuned] = []
    made: dict[str, Trial] = {}
    items = list(groups.values())
    for members in track_progress(items, "tuning") if progress else items:
        first = members[0]
        folder = output.resolve() / "tuning" / first.world.folder.name
        best = _search(first, spaces[first.model], plan.tune, folder, workers)
        found.append(best)
        made |= {trial.name: _with(trial, best.config) for trial in members}
    for trial in sorted(trials, key=lambda trial: trial.depth):
        if trial.base is not None:
            base = made[trial.base.name]
            space = spaces[_root(trial).model]
            own = space.config(trial.config, space.params(base.config))
            made[trial.name] = _with(replace(trial, base=base), own)
    return [made[trial.name] for trial in trials], found


def table(found: Sequence[Tuned]) -> Table:
    """Returns the table of what the searches found."""
    rows = [
        (
            one.world,
            one.model,
            str(one.trials),
            str(one.number),
            number(one.before, 5),
            number(one.after, 5),
            ", ".join(f"{name} = {text(value)}" for name, value in one.settings.items()),
        )
        for one in found
    ]
    columns = ("world", "model", "trials", "best trial", "given settings", "best", "settings")
    return Table("Tuning: validation log loss", columns, tuple(rows))


def _root(trial: Trial) -> Trial:
    return _root(trial.base) if trial.base else trial


def _with(trial: Trial, config: Config) -> Trial:
    """Returns a trial with the settings of another configuration."""
    own = trial.config.model_copy(update={"model": config.model, "training": config.training})
    folder = trial.folder.with_name(f"{trial.model}-{trial_key(own, trial.truth, trial.base)}")
    return replace(trial, config=own, folder=folder)


def _search(trial: Trial, space: Space, budget: int, folder: Path, workers: int) -> Tuned:
    from cmdcm.jobs.tune.objective import Job, clean, objective
    from cmdcm.jobs.tune.results import best_of, frame_of, rows_of
    from cmdcm.jobs.tune.search import Limits, Search, Task
    from cmdcm.jobs.tune.study import open_study

    base, examples = trial.config, trial.world.examples
    data = ExampleSet.open(examples, base.split)
    folds = folds_of(data, base.split, 1)
    cores = len(os.sched_getaffinity(0))
    workers = workers or cores
    threads = max(1, cores // workers)
    files = json.dumps(data.manifest["files"], sort_keys=True)
    identity = {
        "model": base.model.model_dump(mode="json"),
        "training": base.training.model_dump(mode="json"),
        "seed": base.seed,
        "space": space.to_json(),
        "folds": [[fold.train, fold.validation] for fold in folds],
        "examples": hashlib.sha256(files.encode()).hexdigest(),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    output = folder / f"{trial.model}-{key}"

    def job(config: Config, place: Path) -> Job:
        return Job(examples, folds, HEAD, config, place, threads)

    task = Task(objective, job, clean, len(folds))
    with open_study(output, identity) as study:
        Search(study, space, base, task, output, Limits(budget, workers)).run()
        # A smaller budget than an earlier run's takes the best of its own trials.
        rows = rows_of(study, space, base)[:budget]
        with staged_file(output / TRIALS) as staging:
            frame_of(rows, space).write_parquet(staging)
    best, given = best_of(rows), rows[0]
    config = best.config or base
    return Tuned(
        world=trial.world.name,
        model=trial.model,
        trials=len(rows),
        number=best.number,
        before=given.losses[0],
        after=best.losses[0],
        settings={d.name: setting(config, d.name) for d in space.dimensions},
        config=config,
    )
