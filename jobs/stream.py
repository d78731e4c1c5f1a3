"""A table of streams: pre-train each model on history, go through the stream, compare.

Every row starts with the same kind of pre-training, sees the same clicks and is tested on the same
ones; only what enters when, and how it counts, differs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from cmdcm.core.config import CalibrationConfig, Config
from cmdcm.core.errors import ConfigError, DataError, OutputError
from cmdcm.core.files import read_json, staged_file, write_json
from cmdcm.datasets.calendar import DAY_MS
from cmdcm.features.arrivals import Policy, entries
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.bench.page import markdown, page
from cmdcm.jobs.stream_heads import HeadMean, head_means, heads_table
from cmdcm.jobs.stream_results import (
    ORACLE,
    PRETRAINED,
    VANILLA,
    by_period,
    measure,
    notes,
    table,
)
from cmdcm.jobs.tables import Table
from cmdcm.jobs.tables import tables as setting_tables
from cmdcm.model.delayed.base import HOUR_MS, DelayedModel
from cmdcm.model.online.click_store import ClickStore, last_known_ms
from cmdcm.model.online.loop import Periods, Stream
from cmdcm.model.registry import MODELS
from cmdcm.model.trained import MODEL, load_model
from cmdcm.model.training import train

TITLE = "Training on a stream"
REFERENCE = "as_observed"
MARK = "stream.json"
"""Name of the file that makes a directory one of streams."""


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        name: Its name.
        model: `model.name`.
        policy: How clicks enter; None for no training on the stream.
    """

    name: str
    model: str
    policy: Policy | None


def methods() -> list[str]:
    """Returns the names of the models that correct for delayed feedback."""
    delayed = [name for name, kind in MODELS.items() if issubclass(kind, DelayedModel)]
    return [name for name in delayed if name != REFERENCE]


def rows_of(names: Sequence[str]) -> list[Row]:
    """Returns the rows of a table: the references, and the named methods between them.

    Raises:
        ConfigError: A name that is no delayed-feedback model.
    """
    unknown = [name for name in names if name not in methods()]
    if unknown:
        raise ConfigError(f"{unknown} are no delayed-feedback models; there are {methods()}")
    chosen = [Row(name, name, _kind(name).policy) for name in dict.fromkeys(names)]
    return [
        Row(PRETRAINED, REFERENCE, None),
        Row(VANILLA, REFERENCE, Policy()),
        *chosen,
        Row(ORACLE, REFERENCE, Policy(final=True)),
    ]


def run_streams(
    data: ExampleSet,
    names: Sequence[str],
    output: Path,
    config: Config,
    progress: bool = True,
) -> pl.DataFrame:
    """Goes through the stream of the test days with each model; resumable.

    History is the training and validation split. The output has `results.md`, `results.html`,
    `results.parquet` (pooled), `periods.parquet` and the folders of the rows.

    Args:
        data: The examples.
        names: The methods.
        output: Directory to write.
        config: Model, training and stream.
        progress: Show progress bars on stderr.

    Returns:
        The pooled results, as `stream_results.measure` has them.

    Raises:
        ConfigError: An unknown model.
        DataError: Columns that a stream needs are missing, the clicks span fewer than two
            periods, or labels of the history are not final when the stream starts.
        OutputError: `output` holds streams with other settings or examples.
    """
    rows, label = rows_of(names), config.model.delayed_label
    _claim(output, data, config)
    store = ClickStore.build(data.files("test"), data.spec, output / "clicks")
    periods = Periods.of(store.clicks_ms, round(config.stream.step_hours * HOUR_MS))
    remarks = _check_history(data, label, int(periods.bounds_ms[0]), config)
    labels_config = Config.load(data.directory / "config.json").labels
    refunds = labels_config.refunds == "cancel"
    delays = store.delays_ms(label, round(labels_config.refund_days * DAY_MS) if refunds else 0)
    waiting_ms = round(config.model.waiting_hours * HOUR_MS)
    tested, scores = periods.tested(store.clicks_ms), {}
    heads: dict[str, list[HeadMean]] = {}
    for row in rows:
        trained = _pretrained(data, row.model, output, config, progress)
        model, auxiliary = load_model(trained), load_model(trained)
        if not isinstance(model, DelayedModel) or not isinstance(auxiliary, DelayedModel):
            raise AssertionError(f"{row.model} is no delayed-feedback model")
        policy = row.policy or Policy()
        stream = entries(store.clicks_ms, delays, store.known_ms(label), waiting_ms, policy)
        if row.policy is None:
            stream = stream.between(0, 0)
        folder = output / "streams" / row.name
        way = Stream(model, auxiliary, store, stream, delays, periods, config, folder)
        scores[row.name] = way.run(row.name, progress)[tested]
        heads[row.name] = head_means(auxiliary, store, np.flatnonzero(tested), delays, waiting_ms)
    final = store.labels(label)[tested]
    frame = measure(scores, final, store.users[tested], config.evaluation, config.seed)
    late = (delays > waiting_ms)[tested].sum() / max(final.sum(), 1)
    said = notes(final, float(late), config.evaluation, remarks)
    each = by_period(scores, final, store.clicks_ms[tested], periods)
    made = [table(frame, f"{label}, all tested periods")]
    made += [heads_table(heads)] if any(heads.values()) else []
    _write(output, frame, each, made, said, config)
    return frame


def _kind(name: str) -> type[DelayedModel]:
    kind = MODELS[name]
    if not issubclass(kind, DelayedModel):
        raise AssertionError(f"{name} is no delayed-feedback model")
    return kind


def _pretrained(data: ExampleSet, name: str, output: Path, config: Config, progress: bool) -> Path:
    """Trains a model on history, or finds it; returns its directory.

    A calibration would be that of the history alone, so there is none.
    """
    run = output / "pretrained" / name
    if not (run / MODEL).exists():
        settings = config.model_copy(
            update={
                "model": config.model.model_copy(update={"name": name}),
                "calibration": CalibrationConfig(method="none"),
            }
        )
        train(data, run, settings, progress=progress)
    return run / MODEL


def _claim(output: Path, data: ExampleSet, config: Config) -> None:
    """Marks the output as that of these streams, or refuses it."""
    files = {"examples": data.manifest["files"], "test": list(data.split.test)}
    identity = {
        "seed": config.seed,
        **{name: getattr(config, name).model_dump(mode="json") for name in ("model", "training")},
        "step_hours": config.stream.step_hours,
        "learning_rate_share": config.stream.learning_rate_share,
        **files,
    }
    identity["model"].pop("name")
    mark = output / MARK
    if mark.exists():
        if read_json(mark, "stream") != identity:
            raise OutputError(
                f"{output} holds streams with other settings or examples; choose another --output"
            )
        return
    if output.exists() and any(output.iterdir()):
        raise OutputError(f"{output} exists and holds no streams; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    with staged_file(mark) as staging:
        write_json(staging, identity)


def _check_history(data: ExampleSet, label: str, start_ms: int, config: Config) -> list[str]:
    """Refuses history whose labels are not final when the stream starts; or says so."""
    files = data.files("train") + data.files("validation")
    hours = (last_known_ms(files, data.spec, label) - start_ms) / HOUR_MS
    if hours <= 0:
        return []
    if config.stream.immature == "refuse":
        raise DataError(
            f"labels of the history are final up to {hours:.1f} h after the stream's start: "
            "pre-training on them would read the future. Choose earlier history in [split], or set "
            'stream.immature = "keep" to do as published benchmarks do'
        )
    return [
        f"History is trained on with labels that are final up to {hours:.1f} h after the stream's "
        "start, as in published benchmarks: every row knows a little of the future."
    ]


def _write(
    output: Path,
    frame: pl.DataFrame,
    periods: pl.DataFrame,
    made: list[Table],
    said: list[str],
    config: Config,
) -> None:
    for name, value in (("results", frame), ("periods", periods)):
        with staged_file(output / f"{name}.parquet") as staging:
            value.write_parquet(staging)
    shown = {
        name: getattr(config, name).model_dump(mode="json")
        for name in ("model", "training", "stream")
    }
    for name, text in (
        ("results.md", markdown(TITLE, made, said)),
        ("results.html", page(TITLE, made, said, setting_tables(shown, "settings"))),
    ):
        with staged_file(output / name) as staging:
            staging.write_text(text, encoding="utf-8")
