"""What each module of CM-DCM is worth: the plan `ablation` (jobs/bench/plans/ablation.toml).

The same as `cmdcm bench --plan ablation`, with its figures in the RESULT line: by world, model and
head the paired difference to CM-DCM in AUC and log loss, with its 95 % interval over the seeds. It
resumes where it was stopped. No target: a module that does not help is reported as such.
"""

import argparse
import sys
from typing import Any

import polars as pl

from cmdcm.benchmarks.harness import BENCH, report
from cmdcm.core.config import EvaluationConfig
from cmdcm.jobs.bench.page import markdown, notes, tables
from cmdcm.jobs.bench.plan import load_plan
from cmdcm.jobs.bench.results import measure, rows
from cmdcm.jobs.bench.trials import run_trials, trials_of
from cmdcm.model.evaluation import ORACLE


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=0, help="seeds 1 to N, not the plan's five")
    parser.add_argument("--workers", type=int, default=0, help="trials at a time")
    args = parser.parse_args(arguments)
    plan, settings = load_plan("ablation", seeds=args.seeds), EvaluationConfig()
    trials = run_trials(trials_of(plan, BENCH), args.workers)
    frame = rows(measure(trials, iter), plan, settings.confidence, settings.correction)
    remarks = notes(plan, trials, settings.confidence, settings.correction)
    print(markdown(plan.title, tables(frame, plan, trials), remarks))
    figures: dict[str, Any] = {"seeds": len(plan.seeds)}
    shown = frame.filter(
        pl.col("metric").is_in(["auc", "log_loss"]), pl.col("model") != ORACLE
    ).filter(pl.col("difference").is_not_null())
    for row in shown.iter_rows(named=True):
        name = f"{row['world']}.{row['model']}.{row['head']}.{row['metric']}_difference"
        figures[name] = row["difference"]
        figures[f"{name}_lower"] = row["difference_lower"]
        figures[f"{name}_upper"] = row["difference_upper"]
    return report("ablation", figures, {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
