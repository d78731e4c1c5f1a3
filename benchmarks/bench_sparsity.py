"""The sparsity gap: which share of what can be known each model learns (docs/research.md).

The plan `sparsity` (jobs/bench/plans/sparsity.toml), small unless `--full`. Without arguments: two
worlds, two seeds, the small logs of `make bench-zoo`, whose trials it shares, and the given
settings; that says that everything runs, and little more. `--full` is the plan as it is, with its
tuning budget, which takes a day on two cores; it resumes, and `--world` and `--seeds` take it in
parts. `--events` makes either larger or smaller.

Metrics are expectations over the true probabilities (jobs/bench/sparsity.py). Targets, of CM-DCM as
configured:

- in `taobao`, 50 % of the gap of conversion's log loss from vanilla to the oracle, or 80 % of that
  to the ceiling, on the later days;
- in at least three worlds, on the later part, better in delayed log loss and in delayed AUC than
  the best rival, with paired intervals over the seeds that exclude zero;
- in every world delayed PCOC of the later part within 0.9 to 1.1: exp(mean |log PCOC|) at most 1.1.
"""

import argparse
import math
import sys
from typing import Any

import polars as pl

from cmdcm.benchmarks.bench_zoo import QUICK
from cmdcm.benchmarks.harness import BENCH, Target, report
from cmdcm.core.config import EvaluationConfig
from cmdcm.jobs.bench.page import markdown
from cmdcm.jobs.bench.plan import Plan, load_plan
from cmdcm.jobs.bench.sparsity import ALL, SHARES, best_rival, gap_tables, interval_of, measure_gaps
from cmdcm.jobs.bench.trials import Trial, code_notes, run_trials, trials_of
from cmdcm.jobs.bench.tuning import tune

QUICK_WORLDS = ("taobao", "sparse")
COSTS = ("table_parameters", "dense_parameters", "parameters_read", "flops_per_candidate")
OWN = "cmdcm"
METRICS = ("auc", "log_loss", "pcoc", *SHARES)


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the plan as it is: a day")
    parser.add_argument("--plan", default="sparsity", help="a built-in plan or a TOML file")
    parser.add_argument("--world", action="append", default=[], help="a world to keep; may repeat")
    parser.add_argument("--model", action="append", default=[], help="a model to keep; may repeat")
    parser.add_argument("--seeds", type=int, default=0, help="seeds 1 to N")
    parser.add_argument("--events", type=int, default=0, help="events of a world, not the plan's")
    parser.add_argument("--workers", type=int, default=0, help="trials at a time")
    args = parser.parse_args(arguments)
    events = (f"simulate.events={args.events}",) if args.events else ()
    plan = load_plan(
        args.plan,
        seeds=args.seeds or (0 if args.full else 2),
        tune=None if args.full else 0,
        overrides=events if args.full else (*QUICK, *events),
        worlds=tuple(args.world) or (() if args.full else QUICK_WORLDS),
        models=tuple(args.model),
    )
    trials, _ = tune(trials_of(plan, BENCH), plan, BENCH, args.workers)
    trials = run_trials(trials, args.workers)
    frame = measure_gaps(trials)
    confidence = EvaluationConfig().confidence
    remarks = [
        f"{len(plan.seeds)} seeds; means with {100 * confidence:g} % intervals, Student's t.",
        "Metrics are expectations over the true probabilities.",
        "Shares of the gap in log loss start at vanilla (conversion) or at the training rate.",
        *code_notes(trials),
    ]
    print(markdown(plan.title, gap_tables(frame, confidence), remarks))
    figures = _figures(frame, plan, trials)
    return report("sparsity", figures, _targets(frame, plan, confidence, figures))


def _figures(frame: pl.DataFrame, plan: Plan, trials: list[Trial]) -> dict[str, Any]:
    figures: dict[str, Any] = {"seeds": len(plan.seeds), "tune": plan.tune}
    means = frame.filter(pl.col("slice") == ALL).group_by(
        "world", "part", "head", "model", maintain_order=True
    )
    for row in means.agg(pl.col(m).mean() for m in METRICS).iter_rows(named=True):
        place = ".".join(row[name] for name in ("world", "part", "head", "model"))
        figures |= {f"{place}.{m}": row[m] for m in METRICS if row[m] is not None}
    for trial in trials:
        if trial.world.seed == plan.seeds[0]:
            cost = trial.cost()
            figures |= {f"{trial.world.name}.{trial.model}.{n}": cost[n] for n in COSTS}
    return figures


def _targets(
    frame: pl.DataFrame, plan: Plan, confidence: float, figures: dict[str, Any]
) -> dict[str, Target]:
    rivals = [name for name, m in plan.models.items() if not (name.startswith(OWN) or m.truth)]
    later = frame.filter(pl.col("slice") == ALL, pl.col("part") == "later")
    targets, ahead = {}, 0
    for world in plan.worlds:
        delayed = later.filter(pl.col("world") == world, pl.col("head") == "delayed")
        won = []
        for metric, sign in (("log_loss", -1), ("auc", 1)) if rivals else ():
            rival, gain = best_rival(delayed, OWN, rivals, metric, confidence)
            figures[f"{world}.delayed.{metric}.best_rival"] = rival
            figures[f"{world}.delayed.{metric}.difference"] = gain.estimate
            end = gain.upper if sign < 0 else gain.lower
            won.append(end is not None and sign * end > 0)
        ahead += bool(won) and all(won)
        own = delayed.filter(pl.col("model") == OWN)["pcoc"]
        error = interval_of(own.log().abs(), confidence).estimate or 0.0
        targets[f"{world}_delayed_pcoc_error"] = Target(math.exp(error), at_most=1.1)
    targets["worlds_with_the_best_delayed_head"] = Target(ahead, at_least=3)
    place = f"taobao.later.conversion.{OWN}"
    if f"{place}.share_oracle" in figures:
        reached = figures[f"{place}.share_oracle"] / 0.5
        if f"{place}.share_ceiling" in figures:
            reached = max(reached, figures[f"{place}.share_ceiling"] / 0.8)
        targets["taobao_gap_closed_of_the_goal"] = Target(reached, at_least=1.0)
    return targets


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
