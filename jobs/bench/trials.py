"""Trials: one model, trained and scored in one world with one seed; what is done stays done.

    OUTPUT/worlds/WORLD-SEED-KEY/       events, truth, examples
    OUTPUT/trials/WORLD-SEED-KEY/MODEL-KEY/
        model/                  the trained model
        predictions.parquet     its predictions on the test split
        holdout.parquet         and on the validation split
        trial.json              what it cost, and the revision of the code; written last

A key is a hash of the settings that are not the defaults, so that benches with an output in common
share their trials; a folder that was made with another default is made anew. Code is no part of it,
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
    """

    world: World
    model: str
    config: Config
    folder: Path
    truth: bool = False

    @property
    def done(self) -> bool:
        """Whether it was made, with this configuration."""
        made = _made(self.folder / MODEL / "config.json", self.config, _TRIAL)
        return made and (self.folder / TRIAL).exists() and self.world.done

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
            for model in plan.models_in(name):
                made = plan.config(name, seed, model)
                place_of = output.resolve() / "trials" / folder.name
                truth = plan.models[model].truth
                place = place_of / f"{model}-{trial_key(made, truth)}"
                trials.append(Trial(world, model, made, place, truth))
    return trials


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
    missing = [trial for trial in trials if not trial.done]
    prepare_worlds(missing, workers, progress=progress)
    runs = {f"{t.world.name} seed {t.world.seed} {t.model}": t for t in missing}
    run_all("trials", run_trial, runs, workers, progress)
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
    """Trains and scores one model; an interrupted training goes on."""
    data = ExampleSet.open(trial.world.examples, trial.config.split)
    taught, run, speed = data, trial.folder / "run", TrainingSpeed()
    if trial.truth and trial.world.truth is not None:
        soft = trial.folder / "examples"
        soft_examples(data, trial.world.truth, soft)
        taught = ExampleSet.open(soft, trial.config.split)
    started = time.monotonic()
    model = train(taught, run, trial.config, progress=False, observers=[speed])
    seconds = time.monotonic() - started
    frame = predict(model, data.files("test"), data.spec, data.calendar)
    frame.write_parquet(trial.folder / PREDICTIONS)
    held = predict(model, data.files("validation"), data.spec, data.calendar)
    held.write_parquet(trial.folder / HOLDOUT)
    cost = {
        **model.describe(),
        "training_seconds": seconds,
        "epochs": len(load_history(run / MODEL)),
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


def _made(path: Path, config: Config, sections: Sequence[str]) -> bool:
    """Whether the configuration beside an artefact is this one, in some sections."""
    if not path.exists():
        return False
    made = Config.load(path)
    return all(getattr(made, name) == getattr(config, name) for name in sections)


def trial_key(config: Config, truth: bool) -> str:
    """Returns the key of a trial: its configuration, and whether it is taught the truth."""
    return _key(config, _TRIAL, "truth" if truth else "")


def _key(config: Config, sections: Sequence[str], extra: str) -> str:
    values = config.model_dump(mode="json", include=set(sections), exclude_defaults=True)
    text = json.dumps([values, extra], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
