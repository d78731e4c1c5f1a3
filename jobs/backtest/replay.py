"""Replays past promotions: at each as-of date the very job runs, with what was knowable then.

The model that the job accepts serves from then on; what it refuses does not, and the model before
stays. Each promotion is scored, after the fact, on its own clicks, with these kinds of model:

    retrained   what served after the job: the new model, or the one before where the gate refused
    yesterday   what served before the job
    never       the first model that was ever accepted
    ordinary    the same network trained on ordinary days alone, as of the same instant
    NAME        a baseline, trained on the same examples as of the same instant
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import MANIFEST, read_json, read_manifest
from cmdcm.core.locations import location
from cmdcm.datasets.calendar import DAY_MS, Promotion, calendar_of
from cmdcm.datasets.log import open_event_log
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.split import files_of
from cmdcm.jobs.backtest.ordinary import ordinary_days
from cmdcm.jobs.retrain.decision import Decision
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.retrain.plan import STEPS, extra
from cmdcm.jobs.retrain.served import adopt
from cmdcm.jobs.retrain.step_register import lineage
from cmdcm.jobs.retrain.step_train import RUN
from cmdcm.jobs.retrain.steps import Context, Done, find, run_step, step_key
from cmdcm.jobs.retrain.window import MIN_KNOWN, Window
from cmdcm.model.scoring import predict
from cmdcm.model.trained import MODEL, load_model

RETRAINED, YESTERDAY, NEVER, ORDINARY = "retrained", "yesterday", "never", "ordinary"


@dataclass(frozen=True)
class Replayed:
    """What became of one promotion.

    Attributes:
        promotion: The promotion.
        as_of: The as-of instant (ISO).
        decision: The job's decision.
        models: Kind of model -> its directory.
        accepted: What later jobs should know of the model that the gate accepted; None for none.
    """

    promotion: str
    as_of: str
    decision: Decision
    models: Mapping[str, Path]
    accepted: Mapping[str, Any] | None


def replay(
    config: Config,
    output: Path,
    promotions: Sequence[str] = (),
    baselines: Sequence[str] = (),
    lead_days: int = 7,
    *,
    ordinary: bool = False,
) -> list[Replayed]:
    """Runs the job before each promotion, one after the other; what is done is found again.

    Args:
        config: The configuration; `retrain.events` is the log.
        output: Directory of the back-test.
        promotions: Names; empty for all that the log covers with enough known ones before.
        baselines: Names of models to train at each as-of instant.
        lead_days: Days from the as-of instant to the opening of the window.
        ordinary: Also train the model on ordinary days alone.

    Raises:
        DataError: There is no such promotion in the log.
    """
    # Logged requests are of today, and no job of then could have read them.
    places = {"work": str(output / "work"), "targets": (), "replay": (), "deadline_hours": 0.0}
    config = config.model_copy(update={"retrain": config.retrain.model_copy(update=places)})
    work = (output / "work").resolve()
    calendar = calendar_of(config.calendar)
    instants = {
        p: p.pre_promotion_start_ms - lead_days * DAY_MS
        for p in _chosen(config, promotions, lead_days)
    }
    for promotion, instant_ms in instants.items() if ordinary else ():
        ordinary_days(calendar, instant_ms, promotion.kind)  # tells too few before hours of jobs
    replayed: list[Replayed] = []
    for promotion, instant_ms in instants.items():
        as_of = datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat()
        before = _serving_at(replayed)
        if before is None:
            (work / "serving.json").unlink(missing_ok=True)
        else:
            adopt(work, before)
        decision = retrain(
            config,
            Request(promotion.name, as_of, "gate", "cmdcm backtest"),
            lambda instant_ms=instant_ms: instant_ms / 1000,  # type: ignore[misc]
        )
        logging.info("%s: %s", promotion.name, decision.reason)
        window = Window.of(config, promotion.name, as_of)
        done = _done(decision, needed=bool(baselines or ordinary))
        accepted = None
        if decision.outcome == "stopped":
            accepted = lineage(Context(config, window, done, base=_base(done)), None)
            adopt(work, accepted)
        models = dict(_models(accepted, before, replayed))
        for name in baselines:
            models[name] = _baseline(config, window, done, name)
        if ordinary:
            models[ORDINARY] = _ordinary(config, window, done)
        replayed.append(Replayed(promotion.name, as_of, decision, models, accepted))
    return replayed


def outcomes(config: Config, output: Path) -> Path:
    """Makes the examples of the whole log, by which models are scored after the fact."""
    target = output / "outcome"
    if not (target / MANIFEST).exists():
        build_dataset(open_event_log(location(config.retrain.events)), target, config)
    return target


def scored(replayed: Replayed, examples: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yields kind of model and its predictions on a promotion's clicks, in the same order."""
    manifest = read_manifest(examples, EXAMPLES)
    days = [d for d, s in manifest["days"].items() if s["promotion"] == replayed.promotion]
    if not days:
        raise DataError(f"{examples} has no click of {replayed.promotion} with known labels")
    spec = FeatureSpec.load(examples / "spec.json")
    calendar = calendar_of(Config.load(examples / "config.json").calendar)
    files = files_of(examples, tuple(sorted(days)))
    frames: dict[Path, pl.DataFrame] = {}
    for kind, directory in replayed.models.items():
        if directory not in frames:
            frames[directory] = predict(load_model(directory), files, spec, calendar)
        yield kind, frames[directory]


def _chosen(config: Config, names: Sequence[str], lead_days: int) -> list[Promotion]:
    calendar = calendar_of(config.calendar)
    log = open_event_log(location(config.retrain.events))
    first, last = (
        datetime.fromisoformat(log.manifest[f"{end}_timestamp"]).timestamp() * 1000
        for end in ("first", "last")
    )
    covered = [
        p
        for p in calendar.promotions
        if p.pre_promotion_start_ms >= first and p.promotion_end_ms <= last + DAY_MS
    ]
    able = [
        p
        for p in covered
        if sum(q.promotion_end_ms <= p.pre_promotion_start_ms - lead_days * DAY_MS for q in covered)
        >= MIN_KNOWN
    ]
    unknown = sorted(set(names) - {p.name for p in able})
    if unknown:
        raise ConfigError(
            f"cannot replay {unknown}: the log covers {[p.name for p in covered]}, and a job needs "
            f"{MIN_KNOWN} known ones before it"
        )
    chosen = [p for p in able if not names or p.name in names]
    if not chosen:
        raise DataError(
            f"no promotion can be replayed: the log covers {[p.name for p in covered]}, and a job "
            f"needs {MIN_KNOWN} known ones before it"
        )
    return chosen


def _base(done: Mapping[str, Done]) -> dict[str, str] | None:
    start = done["train"].summary["warm_start"]
    if not start:
        return None
    found = read_json(Path(start).parents[1] / "step.json", "result of a step")
    return {"model": start, "identity": found["summary"]["digest"]}


def _serving_at(replayed: Sequence[Replayed]) -> Mapping[str, Any] | None:
    """The model that serves after some promotions were replayed."""
    accepted = [r.accepted for r in replayed if r.accepted]
    return accepted[-1] if accepted else None


def _models(
    accepted: Mapping[str, Any] | None,
    before: Mapping[str, Any] | None,
    replayed: Sequence[Replayed],
) -> Iterator[tuple[str, Path]]:
    serves = accepted or before
    if serves is not None:
        yield RETRAINED, Path(serves["model"])
    if before is not None:
        yield YESTERDAY, Path(before["model"])
        yield NEVER, Path(next(r.accepted for r in replayed if r.accepted)["model"])


def _done(decision: Decision, *, needed: bool) -> dict[str, Done]:
    """The job's steps, from whose examples other models are trained.

    Raises:
        DataError: They are needed, and the job failed before it had examples.
    """
    steps = decision.record["steps"]
    if needed and "features" not in steps:
        raise DataError(f"{decision.reason}: no examples to train other models on")
    return {
        step: Done(Path(d["path"]), d["summary"], d["seconds"], d["peak_mib"])
        for step, d in steps.items()
    }


def _baseline(config: Config, window: Window, done: Mapping[str, Done], name: str) -> Path:
    """Trains a baseline on the examples that the job made."""
    model = config.model.model_copy(update={"name": name})
    context = Context(config.model_copy(update={"model": model}), window, dict(done))
    return _run("train", context).path / RUN / MODEL


def _ordinary(config: Config, window: Window, done: Mapping[str, Done]) -> Path:
    """Trains the model on ordinary days of the same snapshot."""
    calendar = ordinary_days(window.calendar, window.as_of_ms, window.promotion.kind)
    context = Context(config.model_copy(update={"calendar": calendar}), window, dict(done))
    context.done["features"] = _run("features", context)
    return _run("train", context).path / RUN / MODEL


def _run(name: str, context: Context) -> Done:
    """Runs a step of the job, started from no model; what was done is found again."""
    training = context.config.training.model_copy(update={"warm_start": ""})
    config = context.config.model_copy(update={"training": training})
    context.config = context.window.settings(config)
    step = next(step for step in STEPS if step.name == name)
    key = step_key(step, context, extra(step, context))
    return find(step, key, context.work) or run_step(step, context, key)
