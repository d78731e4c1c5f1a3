"""What a job would do: the plan with sizes and expected times; nothing is written."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from cmdcm.core.config import Config
from cmdcm.core.locations import location
from cmdcm.datasets.calendar import HOUR_MS
from cmdcm.datasets.log import open_parquet
from cmdcm.jobs.retrain.plan import extra, until
from cmdcm.jobs.retrain.served import serving_model
from cmdcm.jobs.retrain.snapshot import source_files
from cmdcm.jobs.retrain.steps import Context, earlier_seconds, find, step_key
from cmdcm.jobs.retrain.window import Window

RECENT = 5
"""Earlier runs of a step whose median time is expected."""


def describe(config: Config, promotion: str, as_of: str, last_step: str = "") -> Iterator[str]:
    """Yields the lines of the plan of a job.

    Args:
        config: The configuration.
        promotion: Name of the promotion.
        as_of: As `cmdcm.jobs.retrain.job.Request` has it.
        last_step: Last step to run; empty for all.

    Raises:
        ConfigError: An unknown promotion or step, or one that is over.
        DataError: The source holds nothing.
    """
    window = Window.of(config, promotion, as_of)
    config = window.settings(config)
    work = Path(config.retrain.work).resolve()
    start = (window.promotion.promotion_start_ms - window.as_of_ms) / HOUR_MS / 24
    yield f"promotion  {promotion}, as of {as_of}: {window.phase}, {start:.1f} days to its start"
    said = window.to_json()
    yield f"labels     known: {said['labels_known']}; not yet: {said['labels_pending']}"
    files = source_files(location(config.retrain.events), window.last_day)
    rows = sum(_rows(file) for file in files)
    size = sum(file.stat().st_size for file in files) / 2**20
    held = f"{len(files)} files, {rows:,} events, {size:,.1f} MiB"
    yield f"source     {held}, up to {window.last_day}"
    serving = serving_model(config, work)
    version = "none: the gate applies bounds of values alone"
    if serving is not None:
        version = f"version {serving['version']} of {serving['promotion']} ({serving['as_of']})"
    yield f"serving    {version}"
    yield f"{'step':12}{'state':28}{'expected seconds':>17}"
    context, known, total = Context(config, window, serving=serving), True, 0.0
    for step in until(last_step, config.model):
        state, expected = "to do, where inputs differ", earlier_seconds(step.name, work)[-RECENT:]
        if known and step.name in ("train", "evaluate"):
            known = False  # they depend on the serving model, which the job looks up under its lock
        if known:
            done = find(step, step_key(step, context, extra(step, context)), work)
            state = "done" if done else "to do"
            known = done is not None
            if done is not None:
                context.done[step.name] = done
        seconds = 0.0 if state == "done" else median(expected) if expected else None
        total += seconds or 0.0
        yield f"{step.name:12}{state:28}{'not known' if seconds is None else f'{seconds:.0f}':>17}"
    yield f"expected   {total:.0f} seconds for the steps that ran before on this directory"


def _rows(file: object) -> int:
    with open_parquet(file) as parquet:  # type: ignore[arg-type]
        return int(parquet.metadata.num_rows)
