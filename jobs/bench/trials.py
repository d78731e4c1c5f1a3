"""Trials: one model, trained and scored in one world with one seed; what is done stays done.

    OUTPUT/worlds/WORLD-SEED-KEY/       events, truth, examples
    OUTPUT/trials/WORLD-SEED-KEY/MODEL-KEY/
        model/                  the trained model
        predictions.parquet     its predictions on the test split
        holdout.parquet         and on the validation split
        trial.json              what it cost, and the revision of the code; written last

A key is a hash of the settings that are not the defaults, so that benches with an output in common
share their trials; a folder that was made with another default is made anew. The key of a model
that goes on from a base has the base's key in it, no path. Code is no part of it,
but the results say where other code made the trials: after a change of a model's code choose
another output. Worlds and trials are made on several processes (`processes.py`).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cmdcm.core.config import Config
from cmdcm.core.errors import TrainingError
from cmdcm.core.files import MANIFEST, read_json, sha256, write_json
from cmdcm.core.revision import code_revision
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.simulator import EVENTS, TRUTH, simulate
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.pipeline import build_dataset
from cmdcm.jobs.bench.ceiling import soft_examples
from cmdcm.jobs.bench.cost import TrainingSpeed, flops_per_candidate, parameters_read, scoring_ms
from cmdcm.jobs.bench.plan import Plan
from cmdcm.jobs.bench.processes import run_all
from cmdcm.model.scoring import predict
from cmdcm.model.trained import MODEL, load_history
from cmdcm.model.training import remove_run, train

TRIAL = "trial.json"
PREDICTIONS = "predictions.parquet"
HOLDOUT = "holdout.parquet"

_WORLD = ("calendar", "events", "simulate", "labels", "features")
_TRIAL = ("split", "model", "training", "calibration")


@dataclass(frozen=True)
class World:
    """A world or log, ready for trials.

    Attributes:
        name: Its name in the plan.
        seed: The seed.
        config: The configuration of its baseline.
        folder: Where it is.
        log: The event log; None for a simulated world, which has its own.
    """

    name: str
    seed: int
    config: Config
    folder: Path
    log: Path | None

    @property
    def events(self) -> Path:
        """The event log."""
        return self.log or self.folder / EVENTS

    @property
    def examples(self) -> Path:
        """The examples."""
        return self.folder / "examples"

    @property
    def truth(self) -> Path | None:
        """The truth, None where it is not known."""
        return None if self.log else self.folder / TRUTH

    @property
    def done(self) -> bool:
        """Whether it was made, with this configuration."""
        return _made(self.examples / "config.json", self.config, _WORLD)


@dataclass(frozen=True)
class Trial:
    """One model in one world.

    Attributes:
        world: The world.
        model: The model's name in the plan.
        config: The model's configuration.
        folder: Where it is.
        truth: Whether it learns the true probabilities.
        base: The trial whose model it is started from, in the same world with the same seed.
    """

    world: World
    model: str
    config: Config
    folder: Path
    truth: bool = False
    base: "Trial | None" = None

    @property
    def name(self) -> str:
        """Its name among the trials of a plan."""
        return f"{self.world.name} seed {self.world.seed} {self.model}"

    @property
    def depth(self) -> int:
        """How many trials come before it."""
        return self.base.depth + 1 if self.base else 0

    @property
    def done(self) -> bool:
        """Whether it was made, with this configuration."""
        based = self.base is not None
        made = _made(self.folder / MODEL / "config.json", self.config, _TRIAL, based)
        made = made and (self.folder / TRIAL).exists() and self.world.done
        return made and (self.base is None or self.base.done)

    def cost(self) -> dict[str, Any]:
        """Returns what `trial.json` says."""
        return dict(read_json(self.folder / TRIAL, "trial"))

    def predictions(self) -> pl.DataFrame:
        """Returns the predictions on the test split."""
        return pl.read_parquet(self.folder / PREDICTIONS)

    def holdout(self) -> pl.DataFrame:
        """Returns the predictions on the validation split."""
        return pl.read_parquet(self.folder / HOLDOUT)


def trials_of(plan: Plan, output: Path) -> list[Trial]:
    """Returns the trials of a plan: by world, seed and model, in the plan's order."""
    trials = []
    for name, of_world in plan.worlds.items():
        log = Path(of_world.events).resolve() if of_world.events else None
        for seed in plan.seeds:
            config = plan.config(name, seed, plan.baseline)
            key = _key(config, _WORLD, sha256(log / MANIFEST) if log else str(seed))
            folder = output.resolve() / "worlds" / f"{name}-{seed}-{key}"
            # All seeds of a log train on the same examples.
            world = World(name, seed, config, folder.with_name(f"{name}-{key}"), log)
            if log is None:
                world = World(name, seed, config, folder, None)
            place = output.resolve() / "trials" / folder.name
            trials += [_trial(plan, world, model, place) for model in plan.models_in(name)]
    return trials


def _trial(plan: Plan, world: World, model: str, place: Path) -> Trial:
    of_model, config = plan.models[model], plan.config(world.name, world.seed, model)
    base = _trial(plan, world, of_model.base, place) if of_model.base else None
    folder = place / f"{model}-{trial_key(config, of_model.truth, base)}"
    return Trial(world, model, config, folder, of_model.truth, base)


def run_trials(trials: Sequence[Trial], workers: int = 0, *, progress: bool = True) -> list[Trial]:
    """Makes the trials that are not made yet.

    Args:
        trials: As `trials_of` returned them.
        workers: Processes that work at a time, 0 for one a core; each uses its share of the cores.
        progress: Show progress bars on stderr.

    Returns:
        The trials.

    Raises:
        CmdcmError: Trials failed; all others were made. Names each with its fault.
    """
    missing = sorted((t for t in trials if not t.done), key=lambda trial: trial.depth)
    prepare_worlds(missing, workers, progress=progress)
    runs = {trial.name: trial for trial in missing}
    after = {trial.name: trial.base.name for trial in missing if trial.base}
    run_all("trials", run_trial, runs, workers, progress, after)
    return list(trials)


def prepare_worlds(trials: Sequence[Trial], workers: int = 0, *, progress: bool = True) -> None:
    """Makes the worlds of trials that are not made yet; arguments and errors of `run_trials`."""
    worlds = {trial.world.folder: trial.world for trial in trials}
    named = {f"{w.name} seed {w.seed}": w for w in worlds.values() if not w.done}
    run_all("worlds", prepare, named, workers, progress)


def prepare(world: World) -> None:
    """Simulates a world, if it is one, and makes its examples."""
    if world.log is None:
        simulate(world.folder, world.config, overwrite=True)
    build_dataset(open_event_log(world.events), world.examples, world.config, overwrite=True)


def run_trial(trial: Trial) -> None:
    """Trains and scores one model; an interrupted training goes on.

    Raises:
        TrainingError: Its base was not made.
    """
    config = trial.config
    if trial.base:
        if not trial.base.done:
            raise TrainingError(f"its base {trial.base.model} was not made")
        config = _started(config, str(trial.base.folder / MODEL))
    data = ExampleSet.open(trial.world.examples, config.split)
    taught, run, speed = data, trial.folder / "run", TrainingSpeed()
    if trial.truth and trial.world.truth is not None:
        soft = trial.folder / "examples"
        soft_examples(data, trial.world.truth, soft)
        taught = ExampleSet.open(soft, config.split)
    started = time.monotonic()
    model = train(taught, run, config, progress=False, observers=[speed])
    seconds = time.monotonic() - started
    frame = predict(model, data.files("test"), data.spec, data.calendar)
    frame.write_parquet(trial.folder / PREDICTIONS)
    held = predict(model, data.files("validation"), data.spec, data.calendar)
    held.write_parquet(trial.folder / HOLDOUT)
    cost = {
        **model.describe(),
        "training_seconds": seconds,
        "epochs": int(load_history(run / MODEL)[-1]["epoch"]),  # a warm start's is the epoch 0
        "training_rows": data.total("train"),
        "test_rows": len(frame),
        "examples_per_second": speed.examples_per_second,
        "scoring_ms": scoring_ms(model, data),
        "parameters_read": parameters_read(model),
        "flops_per_candidate": flops_per_candidate(model, data),
        "code_revision": code_revision(),
    }
    shutil.rmtree(trial.folder / MODEL, ignore_errors=True)
    (run / MODEL).rename(trial.folder / MODEL)
    shutil.rmtree(trial.folder / "examples", ignore_errors=True)
    write_json(trial.folder / TRIAL, cost)
    remove_run(run)


def code_notes(trials: Sequence[Trial]) -> list[str]:
    """Returns a note where some of finished trials are of other code than the present."""
    held = sorted({str(trial.cost().get("code_revision", "unknown")) for trial in trials})
    if held == [code_revision()]:
        return []
    return [
        f"The code is {code_revision()}; the trials were made by {', '.join(held)}. With another "
        "output they are made anew."
    ]


def _started(config: Config, source: str) -> Config:
    """Returns a configuration that starts from another model."""
    training = config.training.model_copy(update={"warm_start": source})
    return config.model_copy(update={"training": training})


def _made(path: Path, config: Config, sections: Sequence[str], based: bool = False) -> bool:
    """Whether the configuration beside an artefact is this one, in some sections.

    The place of a base is left out: the output may have moved.
    """
    if not path.exists():
        return False
    made = Config.load(path)
    if based:
        made = _started(made, config.training.warm_start)
    return all(getattr(made, name) == getattr(config, name) for name in sections)


def trial_key(config: Config, truth: bool, base: Trial | None = None) -> str:
    """Returns the key of a trial: its configuration, whether it is taught the truth, its base."""
    extra = "truth" if truth else ""
    if base:
        extra += f" from {trial_key(base.config, base.truth, base.base)}"
    return _key(config, _TRIAL, extra)


def _key(config: Config, sections: Sequence[str], extra: str) -> str:
    values = config.model_dump(mode="json", include=set(sections), exclude_defaults=True)
    text = json.dumps([values, extra], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
