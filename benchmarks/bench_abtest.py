"""The simulated online experiment: CM-DCM against other models, by world.

The models are the trials of the plan `ablation` (jobs/bench/plans/ablation.toml) in two worlds. For
each world and seed the ad auction is replayed in the test days of the last pre-promotion window
(docs/abtest.md). The figures are differences of expected sums in %, against `single_task`, and
shares of the oracle's gain over `vanilla`, which takes delayed buyers for negatives. With one seed
their intervals are of the bootstrap over users; with more they are of Student's t over the seeds,
which also differ in world and training.

The quick setting has one seed and smaller worlds; `--full` has the plan's five seeds, and resumes
where it was stopped: `python -m cmdcm.benchmarks.bench_abtest --full`.
"""

import argparse
import hashlib
import json
import sys
from typing import Any

import numpy as np

from cmdcm.benchmarks.harness import BENCH, Target, report
from cmdcm.core.files import write_json
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.abtest import compare, replay
from cmdcm.jobs.bench.plan import load_plan
from cmdcm.jobs.bench.results import Figure
from cmdcm.jobs.bench.trials import Trial, code_notes, run_trials, trials_of
from cmdcm.jobs.policies import BUILT_IN, CHANCE, ORACLE, open_scorer
from cmdcm.model.trained import MODEL

WORLDS = ("taobao", "shifted")
MODELS = ("vanilla", "single_task", "esmm", "cmdcm")
BASELINE, FLOOR = "single_task", "vanilla"
METRICS = ("revenue", "delayed_gmv", "gmv")
QUICK_EVENTS, QUICK_REQUESTS = 400_000, 10_000
REQUESTS = 50_000


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="five seeds, larger worlds")
    parser.add_argument("--workers", type=int, default=0, help="trials at a time")
    args = parser.parse_args(arguments)
    quick = () if args.full else (f"simulate.events={QUICK_EVENTS}",)
    plan = load_plan("ablation", seeds=0 if args.full else 1, overrides=quick, worlds=WORLDS)
    plan = plan.model_copy(update={"models": {name: plan.models[name] for name in MODELS}})
    requests = REQUESTS if args.full else QUICK_REQUESTS
    trials = run_trials(trials_of(plan, BENCH), args.workers)
    print(*code_notes(trials), file=sys.stderr)
    figures: dict[str, Any] = {"seeds": len(plan.seeds), "requests": requests}
    targets = {}
    for world in plan.worlds:
        results = []
        for seed in plan.seeds:
            some = [t for t in trials if (t.world.name, t.world.seed) == (world, seed)]
            print(f"{world} seed {seed}", file=sys.stderr, flush=True)
            results.append(_result(some, requests))
        for name in ("esmm", "cmdcm", ORACLE):
            for metric in METRICS:
                entries = [r["baseline"][name][metric]["expected"]["difference"] for r in results]
                figures |= _interval(f"{world}.{name}.{metric}_difference", entries)
        for name in (BASELINE, "esmm", "cmdcm"):
            for metric in METRICS:
                entries = [r["floor"][name][metric]["expected"]["oracle_share"] for r in results]
                figures |= _interval(f"{world}.{name}.{metric}_oracle_share", entries)
        for name in (FLOOR, CHANCE):
            entries = [r["baseline"][name]["revenue"]["expected"]["difference"] for r in results]
            figures |= _interval(f"{world}.{name}.revenue_difference", entries)
            if args.full or name == CHANCE:  # one seed says nothing of a kind of model
                above = -figures[f"{world}.{name}.revenue_difference"]
                targets[f"{world}_{name}_loses_revenue"] = Target(above, at_least=0)
    return report("abtest", figures, targets)


def _result(trials: list[Trial], requests: int) -> dict[str, Any]:
    """Replays the auctions for the models of one world and seed, or reads what was replayed."""
    world = trials[0].world
    key = hashlib.sha256("".join(trial.folder.name for trial in trials).encode()).hexdigest()[:8]
    done = trials[0].folder.parent / f"abtest-{requests}-{key}.json"
    if not done.exists():
        config = world.config.model_copy(
            update={"abtest": world.config.abtest.model_copy(update={"requests": requests})}
        )
        policies = {trial.model: open_scorer(trial.folder / MODEL) for trial in trials}
        log = open_event_log(world.events)
        played = replay(log, policies | dict.fromkeys(BUILT_IN), config)
        print(f"{len(played.auctions.user)} requests", file=sys.stderr, flush=True)
        roles = {"baseline": BASELINE, "floor": FLOOR}
        write_json(
            done, {role: compare(played, name, config)["policies"] for role, name in roles.items()}
        )
    result: dict[str, Any] = json.loads(done.read_text("utf-8"))
    return result


def _interval(name: str, entries: list[dict[str, float]]) -> dict[str, Any]:
    if len(entries) == 1:
        return {name: entries[0]["estimate"]} | {
            f"{name}_{end}": entries[0][end] for end in ("lower", "upper")
        }
    interval = Figure(np.array([entry["estimate"] for entry in entries]), None).interval(0.95)
    return {
        name: interval.estimate,
        f"{name}_lower": interval.lower,
        f"{name}_upper": interval.upper,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
