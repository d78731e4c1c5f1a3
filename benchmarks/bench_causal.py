"""Bias and error of the transition's causal quantities where the truth is known, by estimator.

For each world and seed: simulate, make examples, train CM-DCM with each estimator, predict the
later test promotion, and compare with the truth table

- the average of r1 and of tau (ATE): the plain average of the heads, and the held-out targeting
  that an evaluation reports, with its 95 % interval;
- tau of single clicks: PEHE, the root of the mean squared error.

The default is the quick setting of `make bench-causal`. The full one goes on where it was stopped:

    python -m cmdcm.benchmarks.bench_causal --seeds 5 --events 3000000
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
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
from cmdcm.jobs.commands.evaluate import oracle
from cmdcm.model.causal.rows import CausalRows, causal_rows
from cmdcm.model.causal.targeting import targeted
from cmdcm.model.scoring import predict
from cmdcm.model.training import train

ESTIMATORS = ("naive", "ipw", "snipw", "dr")
DEFAULT = "snipw"
WORLDS = ("ignorable", "weak_overlap", "confounded")


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="worlds of each kind")
    parser.add_argument("--events", type=int, default=500_000, help="size of each world")
    args = parser.parse_args(arguments)
    results = list(_runs(args.seeds, args.events))
    figures: dict[str, Any] = {"seeds": args.seeds, "events": args.events}
    for world in WORLDS:
        for estimator in ESTIMATORS:
            some = [r for r in results if (r["world"], r["estimator"]) == (world, estimator)]
            figures |= {f"{world}.{estimator}.{k}": v for k, v in _summary(some).items()}
    bias = {q: figures[f"ignorable.{DEFAULT}.targeted_{q}_bias"] for q in ("r1", "tau")}
    targets = {
        f"ignorable_{q}_relative_bias": Target(abs(value), at_most=0.05)
        for q, value in bias.items()
    }
    return report("causal", figures, targets)


def _runs(seeds: int, events: int) -> Iterator[dict[str, Any]]:
    for world in WORLDS:
        for seed in range(1, seeds + 1):
            folder = BUILD / "causal" / f"{world}-{events}-{seed}"
            for estimator in ESTIMATORS:
                done = folder / f"{estimator}.json"
                if not done.exists():
                    overrides = [
                        f"seed={seed}",
                        f"simulate.events={events}",
                        f"model.estimator={estimator}",
                    ]
                    config = load_config(preset=f"world_{world}", overrides=overrides)
                    write_json(done, _run(folder, config))
                result = json.loads(done.read_text("utf-8"))
                print(f"{world} seed {seed} {estimator}: {result}", file=sys.stderr, flush=True)
                yield {"world": world, "estimator": estimator, **result}


def _run(folder: Path, config: Config) -> dict[str, float | bool | None]:
    examples = folder / "examples"
    if not examples.exists():
        shutil.rmtree(folder, ignore_errors=True)
        simulate(folder, config)
        build_dataset(open_event_log(folder / "events"), examples, config)
    data = ExampleSet.open(examples, config.split)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    model = train(data, run, config, progress=False)
    frame = predict(model, data.files("test"), data.spec, data.calendar)
    rows, truth = causal_rows(frame), causal_rows(oracle(frame, folder / "truth"))
    return _errors(rows, truth, config.model.propensity_clip)


def _errors(rows: CausalRows, truth: CausalRows, clip: float) -> dict[str, float | bool | None]:
    true = {"r1": truth.r1, "tau": truth.r1 - truth.r0}
    plain = {"r1": rows.r1, "tau": rows.r1 - rows.r0}
    result = targeted(rows, "all", clip=clip)
    estimates = {"r1": result.r1, "tau": result.effect}
    errors: dict[str, float | bool | None] = {
        "pehe": float(np.sqrt(np.mean((plain["tau"] - true["tau"]) ** 2)))
    }
    for name, values in true.items():
        mean = float(values.mean())
        estimate = estimates[name]
        errors[f"true_{name}"] = mean
        errors[f"plain_{name}_bias"] = float(plain[name].mean()) / mean - 1
        if estimate.estimate is not None:
            errors[f"targeted_{name}_bias"] = estimate.estimate / mean - 1
        if estimate.lower is not None and estimate.upper is not None:
            errors[f"targeted_{name}_covers"] = estimate.lower <= mean <= estimate.upper
    return errors


def _summary(results: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the seeds, and root mean squares of the biases."""
    summary = {}
    for name in results[0]:
        if name in ("world", "estimator"):
            continue
        values = np.array([float(r[name]) for r in results if r.get(name) is not None])
        summary[name] = float(values.mean())
        if name.endswith("_bias"):
            summary[f"{name}_rmse"] = float(np.sqrt(np.mean(values**2)))
    return summary


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
