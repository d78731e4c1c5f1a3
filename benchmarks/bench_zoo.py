"""The model zoo side by side: the plan `zoo` (jobs/bench/plans/zoo.toml), small unless `--full`.

Without arguments: two worlds, two seeds, small logs, the given settings; it says that everything
runs, and little about which model is better. `--full` is the plan as it is, with its tuning budget:

    cmdcm bench --plan zoo --events tmall=out/tmall/events --output out/zoo

RESULT has, by world and model, AUC, log loss, PCOC and RI of the conversion, and what the model
costs. It resumes where it was stopped. No target: whoever wins is reported as such.
"""

import argparse
import sys
from typing import Any

import polars as pl

from cmdcm.benchmarks.harness import BENCH, report
from cmdcm.core.config import EvaluationConfig
from cmdcm.jobs.bench.page import markdown, notes, tables
from cmdcm.jobs.bench.plan import load_plan
from cmdcm.jobs.bench.results import GAPS, measure, rows
from cmdcm.jobs.bench.trials import run_trials, trials_of
from cmdcm.jobs.bench.tuning import tune

QUICK = (
    "simulate.events=100_000",
    "features.clicked_length=10",
    "features.intent_length=5",
    "training.epochs=2",
    "training.batch_size=1024",
)
WORLDS = ("taobao", "sparse")
COSTS = ("table_parameters", "dense_parameters", "examples_per_second", "scoring_ms")


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the plan as it is: hours")
    parser.add_argument("--seeds", type=int, default=0, help="seeds 1 to N")
    parser.add_argument("--workers", type=int, default=0, help="trials at a time")
    args = parser.parse_args(arguments)
    if args.full:
        plan = load_plan("zoo", seeds=args.seeds)
    else:
        plan = load_plan("zoo", seeds=args.seeds or 2, tune=0, overrides=QUICK, worlds=WORLDS)
    settings = EvaluationConfig()
    trials, found = tune(trials_of(plan, BENCH), plan, BENCH, args.workers)
    trials = run_trials(trials, args.workers)
    frame = rows(measure(trials, iter), plan, settings.confidence, settings.correction)
    remarks = notes(plan, trials, settings.confidence, settings.correction)
    print(markdown(plan.title, tables(frame, plan, trials, found), remarks))
    figures: dict[str, Any] = {"seeds": len(plan.seeds), "tune": plan.tune}
    metrics = ["auc", "log_loss", "pcoc", *GAPS.values()]
    shown = frame.filter(pl.col("metric").is_in(metrics), pl.col("head") == "conversion")
    for row in shown.iter_rows(named=True):
        figures[f"{row['world']}.{row['model']}.{row['metric']}"] = row["estimate"]
    for trial in trials:
        if trial.world.seed == plan.seeds[0]:
            cost = trial.cost()
            figures |= {f"{trial.world.name}.{trial.model}.{n}": cost.get(n) for n in COSTS}
    return report("zoo", figures, {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
