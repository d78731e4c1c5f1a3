"""A trained model that goes on with a stream, to be published: what a nightly refresh makes.

The new model has the trained one's network and settings, the weights as the stream left them, and
no calibration: that of the history would map the level which the stream has just taught back to
the level of the history.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdcm.core.config import CalibrationConfig, Config
from cmdcm.core.files import read_manifest, staged_directory, write_manifest
from cmdcm.features.arrivals import Entries
from cmdcm.features.windows import Int64s
from cmdcm.model.delayed.base import DelayedModel
from cmdcm.model.metrics import auc, log_loss, pcoc
from cmdcm.model.online.click_store import ClickStore
from cmdcm.model.online.loop import Periods, Stream
from cmdcm.model.trained import MODEL, WEIGHTS, load_model

STREAM = "stream"
"""Key of a refreshed model's manifest: what it went on with."""


def refresh(
    trained: Path,
    store: ClickStore,
    entries: Entries,
    delays_ms: Int64s,
    periods: Periods,
    days: tuple[str, ...],
    config: Config,
    output: Path,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains a model on the entries of a stream and publishes it; resumable.

    Args:
        trained: `model/` of the run to go on from, of a delayed-feedback model.
        store: The clicks.
        entries: What enters, all of it before the end of the last period.
        delays_ms: [clicks], -1 without a conversion.
        periods: The periods; their end is the instant as of which labels are known.
        days: The local days of the clicks (ISO). They count as days that the model has seen.
        config: Seed, training, stream and labels.
        output: Directory of the run; `model/` in it appears at the end.
        check: As `Stream.run` has it.

    Returns:
        What the manifest says of the stream: `entries`, `clicks`, `positives` (of the entries),
        `until_ms`, and `progressive`, the quality on clicks of the stream that have final labels by
        then, each scored before the model trained on it; None where there are none.

    Raises:
        TrainingError: A loss is not finite.
    """
    if (output / MODEL / "manifest.json").exists():
        return dict(read_manifest(output / MODEL, MODEL)[STREAM])
    model, auxiliary = _load(trained), _load(trained)
    way = Stream(model, auxiliary, store, entries, delays_ms, periods, config, output / "stream")
    scores = way.run("refreshing", progress=False, check=check)
    until_ms = int(periods.bounds_ms[-1])
    label = model.config.delayed_label
    final = store.known_ms(label) <= until_ms
    stream = {
        "entries": len(entries),
        "clicks": len(store),
        "positives": int(entries.observed.sum()),
        "until_ms": until_ms,
        "progressive": progressive(store.labels(label), scores, final),
    }
    _publish(model, trained, days, stream, config, output)
    shutil.rmtree(output / "stream")
    return stream


def progressive(
    labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], final: npt.NDArray[np.bool_]
) -> dict[str, Any] | None:
    """Returns the quality on the clicks that were scored and whose labels are final.

    Args:
        labels: [clicks], 0 or 1.
        scores: [clicks], NaN where a click was not scored.
        final: [clicks], whether the label is.

    Example:
        >>> nan = float("nan")
        >>> found = progressive(
        ...     np.array([1, 0, 1, 0]),
        ...     np.array([nan, 0.25, 0.75, 0.5], np.float32),
        ...     np.array([True, True, True, False]),
        ... )
        >>> found["clicks"], found["positives"], found["pcoc"]
        (2, 1, 1.0)
    """
    chosen = final & ~np.isnan(scores)
    if not chosen.any():
        return None
    y, p = labels[chosen], scores[chosen]
    found = {metric.__name__: metric(y, p) for metric in (auc, log_loss, pcoc)}
    measured = {name: None if value is None else float(value) for name, value in found.items()}
    return {"clicks": len(y), "positives": int(y.sum()), **measured}


def _load(trained: Path) -> DelayedModel:
    model = load_model(trained)
    if not isinstance(model, DelayedModel):
        raise AssertionError(f"{trained} is no delayed-feedback model")
    model.calibrate(None)
    return model


def _publish(
    model: DelayedModel,
    trained: Path,
    days: tuple[str, ...],
    stream: dict[str, Any],
    config: Config,
    output: Path,
) -> None:
    manifest = read_manifest(trained, MODEL)
    before = Config.load(trained / "config.json")
    settings = before.model_copy(
        update={
            "labels": config.labels,
            "stream": config.stream,
            "calibration": CalibrationConfig(method="none"),
        }
    )
    seen = sorted({*manifest["split"]["train"], *days})
    rows = {**manifest["rows"], "train": manifest["rows"]["train"] + stream["clicks"]}
    with staged_directory(output / MODEL, overwrite=True) as staging:
        model.checkpoint().write(str(staging / WEIGHTS))
        settings.save(staging / "config.json")
        for name in ("spec.json", "history.json"):
            shutil.copyfile(trained / name, staging / name)
        write_manifest(
            staging,
            {
                **{key: value for key, value in manifest.items() if key != "files"},
                "split": {**manifest["split"], "train": seen},
                "rows": rows,
                "calibration": None,
                STREAM: stream,
            },
        )
