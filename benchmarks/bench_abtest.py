"""The simulated online experiment: CM-DCM against other models, by world.

For each world and seed: simulate, make examples, train the models, and replay the ad auction in the
test days of the last pre-promotion window (docs/abtest.md). The figures are differences of expected
sums in %, against `single_task`, and shares of the oracle's gain over `vanilla`, which takes
delayed buyers for negatives. With one seed their intervals are of the bootstrap over users; with
more they are of Student's t over the seeds, which also differ in world and training.

The quick setting has one seed; `--full` has five and larger worlds, and resumes where it was
stopped: `python -m cmdcm.benchmarks.bench_abtest --full`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cmdcm.benchmarks.harness import BUILD, Target, report
from cmdcm.core.config import Config, load_config
from cmdcm.core.files import write_json
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.simulator import simulate
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.pipeline import build_dataset
from cmdcm.jobs.abtest import compare, replay
from cmdcm.jobs.policies import BUILT_IN, CHANCE, ORACLE, open_scorer
from cmdcm.model.training import MODEL, train

WORLDS = ("taobao", "shifted")
MODELS = ("vanilla", "single_task", "esmm", "cmdcm")
BASELINE, FLOOR = "single_task", "vanilla"
METRICS = ("revenue", "delayed_gmv", "gmv")
QUICK = {"seeds": 1, "events": 400_000, "requests": 10_000}
FULL = {"seeds": 5, "events": 3_000_000, "requests": 50_000}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % quantile of Student's t, by number of seeds."""


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="five seeds, larger worlds")
    setting = FULL if parser.parse_args(arguments).full else QUICK
    figures: dict[str, Any] = dict(setting)
    targets = {}
    for world in WORLDS:
        results = [_result(world, seed, setting) for seed in range(1, setting["seeds"] + 1)]
        for name in ("esmm", "cmdcm", ORACLE):
            for metric in METRICS:
                entries = [r["baseline"][name][metric]["expected"]["difference"] for r in results]
                figures |= _interval(f"{world}.{name}.{metric}_difference", entries)
        for name in (BASELINE, "esmm", "cmdcm"):
            for metric in METRICS:
                entries = [r["floor"][name][metric]["expected"]["oracle_share"] for r in results]
                figures |= _interval(f"{world}.{name}.{metric}_oracle_share", entries)
        chance = [r["baseline"][CHANCE]["revenue"]["expected"]["difference"] for r in results]
        above = -float(np.mean([entry["estimate"] for entry in chance]))
        targets[f"{world}_random_loses_revenue"] = Target(above, at_least=0)
    return report("abtest", figures, targets)


def _result(world: str, seed: int, setting: dict[str, int]) -> dict[str, Any]:
    folder = BUILD / "abtest" / f"{world}-{setting['events']}-{seed}"
    done = folder / "abtest.json"
    if not done.exists():
        overrides = [
            f"seed={seed}",
            f"simulate.events={setting['events']}",
            f"abtest.requests={setting['requests']}",
        ]
        config = load_config(preset=f"world_{world}", overrides=overrides)
        write_json(done, _run(folder, config))
    result: dict[str, Any] = json.loads(done.read_text("utf-8"))
    return result


def _run(folder: Path, config: Config) -> dict[str, Any]:
    examples = folder / "examples"
    if not examples.exists():
        shutil.rmtree(folder, ignore_errors=True)
        simulate(folder, config)
        build_dataset(open_event_log(folder / "events"), examples, config)
    data = ExampleSet.open(examples, config.split)
    for name in MODELS:
        if not (folder / name / MODEL).exists():
            print(f"{folder.name}: training {name}", file=sys.stderr, flush=True)
            model = config.model.model_copy(update={"name": name})
            train(data, folder / name, config.model_copy(update={"model": model}), progress=False)
    policies = {name: open_scorer(folder / name / MODEL) for name in MODELS}
    log = open_event_log(folder / "events")
    played = replay(log, policies | dict.fromkeys(BUILT_IN), config)
    print(f"{folder.name}: {len(played.auctions.user)} requests", file=sys.stderr, flush=True)
    return {
        role: compare(played, name, config)["policies"]
        for role, name in (("baseline", BASELINE), ("floor", FLOOR))
    }


def _interval(name: str, entries: list[dict[str, float]]) -> dict[str, float]:
    estimates = np.array([entry["estimate"] for entry in entries])
    mean = float(estimates.mean())
    if len(entries) == 1:
        lower, upper = entries[0]["lower"], entries[0]["upper"]
    else:
        reach = T_95[len(entries)] * float(estimates.std(ddof=1)) / len(entries) ** 0.5
        lower, upper = mean - reach, mean + reach
    return {name: mean, f"{name}_lower": lower, f"{name}_upper": upper}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
