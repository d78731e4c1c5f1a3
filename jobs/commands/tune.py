"""`cmdcm tune`: the hyper-parameters of a model, searched on time-ordered folds; resumable."""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.core.files import staged_file
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.bench.page import markdown
from cmdcm.jobs.tables import tables as setting_tables
from cmdcm.jobs.tune.folds import Fold, folds_of
from cmdcm.jobs.tune.page import notes, page, tables
from cmdcm.jobs.tune.space import Space, load_space, spaces
from cmdcm.jobs.tune.toml_file import config_toml
from cmdcm.model.predictions import HEADS

if TYPE_CHECKING:
    from optuna import Study

EXAMPLE = "cmdcm tune --examples out/examples --output out/tuning --trials 30"
BEST = "best.toml"
TITLE = "Hyper-parameter search"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--examples", type=Path, required=True, help="directory of examples")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory of the search; an interrupted search goes on",
    )
    parser.add_argument("--overwrite", action="store_true", help="start a search there anew")
    parser.add_argument(
        "--space",
        default="default",
        help=f"a TOML file, or a built-in space: {', '.join(spaces())} (default: default)",
    )
    parser.add_argument(
        "--trials",
        type=_positive,
        default=30,
        help="trials of the search with the given configuration, which is the first, and those "
        "of earlier runs (default: 30)",
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        default="conversion",
        help="head whose validation log loss counts (default: conversion)",
    )
    parser.add_argument(
        "--folds",
        type=_natural,
        default=0,
        help="validate on the last so many promotions before the test split; 0 for all but the "
        "first one (default)",
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        default=1,
        help="trials at a time, each with its share of the cores; only with 1 (default) does a "
        "search with the same seed make the same trials",
    )
    parser.add_argument(
        "--prune-after",
        type=_positive,
        default=5,
        help="complete trials before the first one may be pruned (default: 5)",
    )
    parser.add_argument(
        "--max-failures",
        type=_positive,
        default=5,
        help="stop when so many trials fail in a row (default: 5)",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Runs the trials that are missing, writes the results and prints them."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError('tuning needs Optuna 5: pip install "cmdcm[tune]"')
    from cmdcm.jobs.tune.objective import Job, clean, objective
    from cmdcm.jobs.tune.search import Limits, Search, Task
    from cmdcm.jobs.tune.study import open_study

    _check(config)
    space = load_space(args.space)
    data = ExampleSet.open(args.examples, config.split)
    folds = folds_of(data, config.split, args.folds)
    examples, threads = args.examples.resolve(), max(1, _cores() // args.workers)

    def job(trial: Config, folder: Path) -> Job:
        return Job(examples, folds, args.head, trial, folder, threads)

    if args.overwrite:
        _remove(args.output)
    limits = Limits(args.trials, args.workers, args.prune_after, args.max_failures)
    task = Task(objective, job, clean, len(folds))
    with open_study(args.output, _identity(args, config, space, folds, data)) as study:
        for fold in folds:
            print(f"fold: train {fold.train[0]}..{fold.train[-1]}, validate on {fold.name}")
        try:
            Search(study, space, config, task, args.output, limits).run()
        finally:  # what is done is shown even when the search could not go on
            _write(study, args, config, space, folds)
    return 0


def _check(config: Config) -> None:
    """Refuses what cannot be tuned, whatever the space."""
    if config.training.warm_start:
        raise ConfigError(
            "training.warm_start should be empty: a model that knows later promotions than a fold "
            "validates on makes its loss worthless"
        )
    if config.training.strategy not in ("single", "mirrored"):
        raise ConfigError(
            f"training.strategy = {config.training.strategy!r} cannot be tuned with: each trial is "
            "one process. Use single or mirrored"
        )


def _write(
    study: "Study", args: argparse.Namespace, config: Config, space: Space, folds: tuple[Fold, ...]
) -> None:
    """Writes and prints the results, if there are any."""
    from cmdcm.jobs.tune.results import best_of, frame_of, importances, rows_of

    rows = rows_of(study, space, config)
    if not rows or rows[0].loss is None:
        return
    best = best_of(rows)
    remarks = notes(rows, folds, args.head, config.seed)
    made = tables(rows, folds, importances(study, space))
    chosen = best.config or config
    with staged_file(args.output / "trials.parquet") as staging:
        frame_of(rows, space).write_parquet(staging)
    with staged_file(args.output / BEST) as staging:
        lines = [f"Trial {best.number} of `cmdcm tune` on {args.examples.resolve()}.", *remarks]
        comment = "".join(f"# {line}\n" for line in lines)
        names = [dimension.name for dimension in space.dimensions]
        staging.write_text(f"{comment}\n{config_toml(chosen, names)}", encoding="utf-8")
        if load_config(staging) != chosen:
            raise AssertionError(f"{BEST} does not hold the configuration of trial {best.number}")
    text = markdown(TITLE, made, remarks)
    searched = setting_tables(space.to_json(), "space")
    for name, shown in (
        ("results.md", text),
        ("results.html", page(TITLE, made, remarks, searched)),
    ):
        with staged_file(args.output / name) as staging:
            staging.write_text(shown, encoding="utf-8")
    print(text)
    print(f"results in {args.output}; the best configuration in {args.output / BEST}")


def _identity(
    args: argparse.Namespace,
    config: Config,
    space: Space,
    folds: tuple[Fold, ...],
    data: ExampleSet,
) -> dict[str, Any]:
    """Returns what makes two searches the same one."""
    files = json.dumps(data.manifest["files"], sort_keys=True)
    return {
        "model": config.model.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json"),
        "seed": config.seed,
        "space": space.to_json(),
        "head": args.head,
        "folds": [[fold.train, fold.validation] for fold in folds],
        "examples": hashlib.sha256(files.encode()).hexdigest(),
        "prune-after": args.prune_after,
    }


def _remove(output: Path) -> None:
    """Deletes a search; refuses a directory that holds none."""
    from cmdcm.jobs.tune.study import STUDY

    if output.exists() and any(output.iterdir()):
        if not (output / STUDY).exists():
            raise OutputError(f"{output} exists and is no search; choose another --output")
        shutil.rmtree(output)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _natural(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"should be 0 or more. Received: {text}")
    return int(text)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be 1 or more. Received: {text}")
    return int(text)
