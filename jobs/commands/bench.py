"""`cmdcm bench`: models x worlds or logs x seeds, with paired intervals; resumable."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import staged_directory, write_json, write_manifest
from cmdcm.core.progress import track_progress
from cmdcm.jobs.bench.page import markdown, notes, page, tables
from cmdcm.jobs.bench.plan import load_plan, plans
from cmdcm.jobs.bench.results import measure, rows, seed_rows
from cmdcm.jobs.bench.trials import run_trials, trials_of
from cmdcm.jobs.bench.tuning import tune
from cmdcm.jobs.tables import tables as setting_tables

EXAMPLE = "cmdcm bench --plan ablation --seeds 2 --output out/bench"
RESULTS = "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--plan", required=True, help=f"a TOML file, or a built-in plan: {', '.join(plans())}"
    )
    parser.add_argument("--seeds", type=int, default=0, help="use seeds 1 to N, not the plan's")
    parser.add_argument(
        "--tune", type=int, help="trials of the search for each model and world, not the plan's"
    )
    parser.add_argument(
        "--world", action="append", default=[], help="a world of the plan to keep; may be repeated"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="a model of the plan to keep beside its baseline; may be repeated",
    )
    parser.add_argument(
        "--events",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="an event log to add as a world, with the preset NAME if there is one",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="trials at a time; 0 for one a core (default)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory of worlds, trials and results; what is done there is not done again",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Makes the trials that are missing, writes the results and prints them."""
    if args.config or args.preset:
        raise ConfigError("a plan names the presets itself; use --set for settings of all trials")
    logs = {}
    for argument in args.events:
        name, _, directory = argument.partition("=")
        if not name or not directory:
            raise ConfigError(f"--events {argument}: expected NAME=DIR")
        logs[name] = Path(directory)
    plan = load_plan(
        args.plan,
        seeds=args.seeds,
        tune=args.tune,
        overrides=tuple(args.overrides),
        logs=logs,
        worlds=tuple(args.world),
        models=tuple(args.model),
    )
    trials, found = tune(trials_of(plan, args.output), plan, args.output, args.workers)
    trials = run_trials(trials, args.workers)
    evaluation = config.evaluation
    figures = measure(trials, lambda groups: track_progress(groups, "evaluating"))
    frame = rows(figures, plan, evaluation.confidence, evaluation.correction)
    made = tables(frame, plan, trials, found)
    remarks = notes(plan, trials, evaluation.confidence, evaluation.correction)
    with staged_directory(args.output / RESULTS, overwrite=True) as staging:
        frame.write_parquet(staging / "results.parquet")
        seed_rows(figures, trials).write_parquet(staging / "seeds.parquet")
        write_json(staging / "plan.json", plan.model_dump(mode="json"))
        text = markdown(plan.title, made, remarks)
        (staging / "results.md").write_text(text, encoding="utf-8")
        settings = setting_tables(plan.model_dump(mode="json"), "plan")
        html = page(plan.title, made, remarks, settings)
        (staging / "results.html").write_text(html, encoding="utf-8")
        write_manifest(staging, {"kind": "bench", "title": plan.title})
    print(text)
    print(f"results in {args.output / RESULTS}")
    return 0
