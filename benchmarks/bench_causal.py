"""Bias and error of the transition's causal quantities where the truth is known, by estimator.

The trials are those of the plan `causal` (jobs/bench/plans/causal.toml): in each world and with
each seed CM-DCM is trained with each estimator, and predicts the later test promotion. `simple_*`
are models whose outcome heads see the user's counters alone, linearly, and so none of what carting
depends on: the misspecified heads. Compared with the truth table, by model:

    plain_r1_bias, plain_tau_bias           relative bias of the heads' average
    targeted_r1_bias, targeted_tau_bias     of the held-out targeted average of an evaluation
    beyond_oracle_r1, beyond_oracle_tau     that bias less the one of targeting with the true e and
                                            r on the same clicks: without the luck of the draw
    targeted_r1_covers, ...                 share of its 95 % intervals that hold the truth
    bounds_r1_covers, bounds_tau_covers     share of the sharp bounds at Lambda = Gamma that do,
                                            and `bounds_r1_interval_covers`, ... of their intervals
    pehe                                    root mean squared error of single clicks' tau
    r1_rmse, tau_rmse                       root mean squared error of single clicks, of r1 and tau

Each figure is a mean over the seeds; `_lower` and `_upper` are its 95 % interval, Student's t;
`_rms` is the root of the mean square over the seeds.

The quick setting has smaller worlds, three seeds and the two estimators of the targets. The full
one is the plan as it is, goes on where it was stopped, and judges the targets by the means:

    python -m cmdcm.benchmarks.bench_causal --full

Misspecified heads are judged three times: against the average of naive ones as they are, what an
evaluation reports by default, which is targeted, and the default's heads as they are; and like with
like, targeted against targeted. `pehe_less_naive` is the default's pehe less that of the naive
heads of the same seed.

The quick setting's few seeds cannot tell 5 % from 10 %: there a target is missed only if the whole
interval of the bias lies beyond it.
"""

import argparse
import sys
from typing import Any

import numpy as np

from cmdcm.benchmarks.harness import BENCH, Target, report
from cmdcm.jobs.bench.plan import load_plan
from cmdcm.jobs.bench.results import Figure
from cmdcm.jobs.bench.trials import Trial, code_notes, run_trials, trials_of
from cmdcm.jobs.commands.evaluate import oracle
from cmdcm.model.bootstrap import UserBootstrap
from cmdcm.model.causal.rows import CausalRows, causal_rows
from cmdcm.model.causal.sensitivity import Sensitivity
from cmdcm.model.causal.targeting import targeted

QUICK_EVENTS, QUICK_SEEDS = 500_000, 3
QUICK_MODELS = ("naive", "snipw", "simple_naive", "simple_snipw")
DEFAULT = "snipw"
CONFIDENCE = 0.95
NO_CLIP = 1e-6


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the whole plan, five seeds")
    parser.add_argument("--workers", type=int, default=0, help="trials at a time")
    args = parser.parse_args(arguments)
    quick = () if args.full else (f"simulate.events={QUICK_EVENTS}",)
    plan = load_plan("causal", seeds=0 if args.full else QUICK_SEEDS, overrides=quick)
    if not args.full:
        models = {n: m for n, m in plan.models.items() if n in QUICK_MODELS}
        plan = plan.model_copy(update={"models": models})
    trials = run_trials(trials_of(plan, BENCH), args.workers)
    print(*code_notes(trials), file=sys.stderr)
    figures: dict[str, Any] = {"seeds": len(plan.seeds)}
    errors: dict[tuple[str, str], list[dict[str, float]]] = {}
    for world in plan.worlds:
        for model in plan.models_in(world):
            some = [t for t in trials if (t.world.name, t.model) == (world, model)]
            print(f"{world} {model}", file=sys.stderr, flush=True)
            errors[world, model] = [_errors(trial) for trial in some]
            summary = _summary(errors[world, model])
            figures |= {f"{world}.{model}.{k}": v for k, v in summary.items()}
        figures |= _paired(errors, world)
    return report("causal", figures, _targets(figures, args.full))


def _targets(figures: dict[str, Any], full: bool) -> dict[str, Target]:
    targets = {}
    for quantity in ("r1", "tau"):
        name = f"ignorable.{DEFAULT}.targeted_{quantity}_bias"
        lower, upper = figures[f"{name}_lower"], figures[f"{name}_upper"]
        nearest = 0.0 if lower <= 0 <= upper else min(abs(lower), abs(upper))
        targets[f"ignorable_{quantity}_relative_bias"] = Target(
            abs(figures[name]) if full else nearest, at_most=0.05
        )
    naive, default = (f"weak_overlap.simple_{e}" for e in ("naive", DEFAULT))
    worst = abs(figures[f"{naive}.plain_r1_bias"])
    for kind in ("targeted", "plain"):
        share = abs(figures[f"{default}.{kind}_r1_bias"]) / worst
        targets[f"misspecified_{kind}_bias_to_naive"] = Target(share, at_most=0.5)
    targeted_bias = [abs(figures[f"{name}.targeted_r1_bias"]) for name in (default, naive)]
    share = targeted_bias[0] / targeted_bias[1]
    targets["misspecified_targeted_bias_to_targeted_naive"] = Target(share, at_most=0.5)
    share = figures[f"{default}.pehe"] / figures[f"{naive}.pehe"]
    targets["misspecified_tau_rmse_to_naive"] = Target(share, at_most=1.0)
    for quantity in ("r1", "tau"):
        # Runs are seeds and estimators.
        covers = [
            value
            for name, value in figures.items()
            if name.startswith("confounded.") and name.endswith(f"bounds_{quantity}_covers")
        ]
        targets[f"confounded_bounds_cover_{quantity}"] = Target(
            sum(covers) / len(covers), at_least=0.9
        )
    return targets


def _errors(trial: Trial) -> dict[str, float]:
    frame = trial.predictions()
    truth_path = trial.world.truth
    if truth_path is None:
        raise ValueError("the plan should hold simulated worlds alone")
    rows, truth = causal_rows(frame), causal_rows(oracle(frame, truth_path))
    clip = trial.config.model.propensity_clip
    true = {"r1": truth.r1, "tau": truth.r1 - truth.r0}
    plain = {"r1": rows.r1, "tau": rows.r1 - rows.r0}
    result = targeted(rows, "all", clip=clip)
    estimates = {"r1": result.r1, "tau": result.effect}
    best = targeted(truth, "all", clip=NO_CLIP)
    luck = {"r1": best.r1.estimate, "tau": best.effect.estimate}
    bounds = _bounds(rows, result.outcomes, trial)
    errors: dict[str, float] = {"pehe": _rms(plain["tau"] - true["tau"])}
    errors["r1_rmse"] = _rms(plain["r1"] - true["r1"])
    for name, values in true.items():
        mean, estimate = float(values.mean()), estimates[name]
        errors[f"true_{name}"] = mean
        errors[f"plain_{name}_bias"] = float(plain[name].mean()) / mean - 1
        if estimate.estimate is not None:
            errors[f"targeted_{name}_bias"] = estimate.estimate / mean - 1
            reference = luck[name]
            if reference is not None:
                errors[f"beyond_oracle_{name}"] = (estimate.estimate - reference) / mean
        if estimate.lower is not None and estimate.upper is not None:
            errors[f"targeted_{name}_covers"] = float(estimate.lower <= mean <= estimate.upper)
        if bounds is not None:
            entry = bounds["r1" if name == "r1" else "effect"]
            for kind in ("", "interval_"):
                held = entry[f"{kind}lower"] <= mean <= entry[f"{kind}upper"]
                errors[f"bounds_{name}_{kind}covers"] = float(held)
            errors[f"bounds_{name}_lower"], errors[f"bounds_{name}_upper"] = (
                entry["lower"] / mean - 1,
                entry["upper"] / mean - 1,
            )
    return errors


def _bounds(
    rows: CausalRows, outcomes: dict[str, Any], trial: Trial
) -> dict[str, dict[str, float]] | None:
    """Sharp bounds at Lambda = Gamma, with their percentile intervals."""
    if any(values is None for values in outcomes.values()):
        return None
    config = trial.config
    boot = UserBootstrap(rows.users, config.evaluation.bootstrap, config.seed, CONFIDENCE)
    places = np.arange(len(rows))
    clip = config.model.propensity_clip
    entry = Sensitivity(rows, places, outcomes, clip, "sharp", boot).entry(
        config.simulate.confounding
    )
    return {name: entry[name] for name in ("r1", "effect")}


def _summary(errors: list[dict[str, float]]) -> dict[str, float | None]:
    """Means over the seeds with intervals, and root mean squares of the biases."""
    summary: dict[str, float | None] = {}
    for name in dict.fromkeys(key for error in errors for key in error):
        values = np.array([error[name] for error in errors if name in error])
        interval = Figure(values, None).interval(CONFIDENCE)
        summary[name] = interval.estimate
        if name.endswith("_bias") or name.startswith("beyond_"):
            summary[f"{name}_lower"], summary[f"{name}_upper"] = interval.lower, interval.upper
            summary[f"{name}_rms"] = _rms(values)
    return summary


def _paired(
    errors: dict[tuple[str, str], list[dict[str, float]]], world: str
) -> dict[str, float | None]:
    """How much less pehe the default has than naive heads, seed by seed, with intervals."""
    summary: dict[str, float | None] = {}
    for prefix in ("", "simple_"):
        own, naive = (errors.get((world, f"{prefix}{name}"), []) for name in (DEFAULT, "naive"))
        less = [one["pehe"] - other["pehe"] for one, other in zip(own, naive, strict=True)]
        if not less:
            continue
        interval = Figure(np.array(less), None).interval(CONFIDENCE)
        name = f"{world}.{prefix}{DEFAULT}.pehe_less_naive"
        summary |= {name: interval.estimate}
        summary |= {f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
    return summary


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
