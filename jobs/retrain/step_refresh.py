"""Step `refresh`: the trained model goes on with the clicks of windows whose labels are not known.

Of delayed-feedback models alone. The clicks are those of the promotions that `features` makes no
examples of yet: of the running window, and of earlier ones whose refunds are awaited. A promotion
is in the examples or in the stream, never in both, so no click that judges the model was trained
on, whatever became known of it later.

Each night begins with the model that `train` made and takes the whole stream until the as-of
instant: the result is a function of that model and the snapshot, whichever nights were missed.
"""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from cmdcm.core.files import MANIFEST, read_manifest
from cmdcm.datasets.calendar import Promotion
from cmdcm.datasets.log import open_event_log
from cmdcm.export.gate import identity
from cmdcm.features.arrivals import entries
from cmdcm.features.labels import Periods as LabelPeriods
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.split import files_of
from cmdcm.jobs.retrain.step_snapshot import EVENTS
from cmdcm.jobs.retrain.step_train import RUN
from cmdcm.jobs.retrain.steps import Context
from cmdcm.jobs.retrain.window import Window
from cmdcm.model.delayed.base import HOUR_MS, DelayedModel
from cmdcm.model.online.click_store import ClickStore
from cmdcm.model.online.loop import Periods
from cmdcm.model.online.refresh import refresh
from cmdcm.model.registry import MODELS
from cmdcm.model.trained import MODEL


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `run/` into the step's directory; a run that was killed goes on."""
    trained, window = context.done["train"], context.window
    first = first_running(window, context.done["features"].summary["promotions"])
    streamed = opened(window, first)
    snapshot = context.done["snapshot"].path / EVENTS
    if not _any_click(snapshot, streamed):
        why = "no click of a window whose labels are not known yet: the trained model is as it was"
        return {"digest": trained.digest, "skipped": why}
    config, target = context.config, output / EXAMPLES
    if not (target / MANIFEST).exists():
        log = open_event_log(snapshot)
        build_dataset(log, target, config, overwrite=True, as_observed_from=first)
    spec = FeatureSpec.load(target / "spec.json")
    days = tuple(sorted(read_manifest(target, EXAMPLES)["days"]))
    store = ClickStore.build(files_of(target, days), spec, output / "clicks")
    label, periods = config.model.delayed_label, LabelPeriods.of(config.labels)
    delays = store.delays_ms(label, periods.refund if periods.cancel else 0)
    kind = MODELS[config.model.name]
    if not issubclass(kind, DelayedModel):
        raise AssertionError(f"{config.model.name} is no delayed-feedback model")
    waiting_ms = round(config.model.waiting_hours * HOUR_MS)
    known = entries(
        store.clicks_ms, delays, store.known_ms(label), waiting_ms, kind.policy
    ).between(0, window.as_of_ms)
    if not len(known):
        why = "no click has waited for model.waiting_hours yet: the trained model is as it was"
        return {"digest": trained.digest, "skipped": why}
    said = refresh(
        trained.path / RUN / MODEL,
        store,
        known,
        delays,
        Periods.until(store.clicks_ms, round(config.stream.step_hours * HOUR_MS), window.as_of_ms),
        days,
        config,
        output / RUN,
        context.check,
    )
    for made in (target, output / "clicks"):
        shutil.rmtree(made)
    return {
        "digest": identity(output / RUN / MODEL),
        "promotions": [promotion.name for promotion in streamed],
        "days": [days[0], days[-1]],
        **said,
    }


def first_running(window: Window, known: dict[str, Any]) -> int:
    """Returns the number of the first promotion after all those that have examples."""
    with_examples = [n for n, p in enumerate(window.calendar.promotions) if p.name in known]
    return max(with_examples, default=-1) + 1


def opened(window: Window, first: int) -> list[Promotion]:
    """Returns the promotions from a number on whose window has opened by the as-of instant."""
    later = window.calendar.promotions[first:]
    return [p for p in later if p.pre_promotion_start_ms < window.as_of_ms]


def _any_click(snapshot: Path, promotions: list[Promotion]) -> bool:
    events = pl.scan_parquet(snapshot / "*.parquet")
    clicks = events.filter(pl.col("kind").cast(pl.String) == "click")
    times = pl.col("timestamp").dt.epoch("ms")
    return any(
        clicks.filter(times.is_between(p.pre_promotion_start_ms, p.promotion_start_ms, "left"))
        .select(pl.len())
        .collect()
        .item()
        for p in promotions
    )
