"""One look at a served model: logged predictions, the event log, the training data, the servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import MANIFEST, read_manifest
from cmdcm.datasets.calendar import PromotionCalendar, calendar_of
from cmdcm.datasets.log import EventLog
from cmdcm.features.column_view import column_views
from cmdcm.features.known_labels import labelled_clicks
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.rows import sample_rows
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.statistics import read_statistics
from cmdcm.jobs.monitor.calibration import calibration, match
from cmdcm.jobs.monitor.findings import findings
from cmdcm.jobs.monitor.inputs import excess_psi, input_drift, input_rates
from cmdcm.jobs.monitor.retraining import last_decision
from cmdcm.jobs.monitor.scores import Scores, read_scores
from cmdcm.jobs.prediction_logs import read_requests
from cmdcm.jobs.registry.aliases import Aliases
from cmdcm.jobs.rollout.config_file import ModelConfigFile, placement_of
from cmdcm.model.base import OUTPUTS
from cmdcm.model.stability import bin_counts, decile_edges

VERSION = 1
"""Of the result's form; a change that breaks a reader of monitor.json raises it."""

_DELAY_ROWS = 100_000


@dataclass(frozen=True)
class Sources:
    """What is looked at.

    Attributes:
        requests: TFRecords of PredictionLog with answers.
        examples: Directory of the examples that the model was trained on.
        events: The event log that goes on; None: nothing is known of labels.
        reference: Earlier files of PredictionLog, by which scores are measured.
        base_path: Base path of the served model; None: nothing is known of ages.
        model_config_file: The servers' model config file; None: nothing is known of labels of
            versions and of the registry.
        retrain_work: Directory of the retraining job; None: nothing is known of its decisions.
    """

    requests: Sequence[Path]
    examples: Path
    events: EventLog | None = None
    reference: Sequence[Path] = field(default=())
    base_path: Path | None = None
    model_config_file: Path | None = None
    retrain_work: Path | None = None


def monitor(sources: Sources, config: Config, now_ms: int) -> dict[str, Any]:
    """Measures everything that the sources tell.

    Args:
        sources: What is looked at.
        config: Its sections `monitor`, `labels`, `validation` and `export`; the calendar is that of
            `config.calendar`, which knows the running promotion.
        now_ms: Now, UTC ms; events and requests of later are not looked at.

    Returns:
        What monitor.json holds.

    Raises:
        DataError: A source is missing or malformed, or no prediction can be used.
        ConfigError: A setting does not go with the model.
    """
    settings, calendar = config.monitor, calendar_of(config.calendar)
    manifest = read_manifest(sources.examples, EXAMPLES)
    spec = FeatureSpec.load(sources.examples / "spec.json")
    max_bytes = config.serving.max_message_mb << 20

    def scored(files: Sequence[Path]) -> Scores:
        return read_scores(
            files, spec, calendar, slices=settings.slices, until_ms=now_ms, max_bytes=max_bytes
        )

    scores = scored(sources.requests)
    if scores.rows.is_empty():
        raise DataError(
            f"no logged prediction can be used: {dict(scores.skipped) or 'the files are empty'}; "
            "check [calendar] and that answers are logged"
        )
    base = column_views(read_statistics(sources.examples / "statistics.pbtxt"))
    served = read_requests(
        sources.requests,
        spec,
        max_rows=config.validation.sample_rows,
        max_bytes=max_bytes,
    )
    labels = _labels(sources, config)
    result = {
        "version": VERSION,
        "model": config.export.name,
        "now_ms": now_ms,
        "requests": scores.requests,
        "rows": len(scores.rows),
        "first_request_ms": int(scores.rows["time_ms"].min()),  # type: ignore[arg-type]
        "last_request_ms": int(scores.rows["time_ms"].max()),  # type: ignore[arg-type]
        "skipped": dict(scores.skipped),
        "versions": _versions(scores.rows, labels, sources.base_path, now_ms),
        "labels": labels,
        "registry_faults": _registry_faults(sources, config, labels),
        "retraining": last_decision(sources.retrain_work, now_ms),
        "means": _means(scores.rows),
        "score_drift": _score_drift(
            scored(sources.reference).rows if sources.reference else None, scores.rows
        ),
        "input_drift": input_drift(
            base, served.columns, spec, config.validation.min_count, settings.exclude
        ),
        "inputs": input_rates(base, served, spec),
        **_outcomes(sources, scores, config, calendar, now_ms, manifest, spec),
        "settings": settings.model_dump(mode="json"),
    }
    return {**result, "findings": findings(result, settings)}


def _outcomes(
    sources: Sources,
    scores: Scores,
    config: Config,
    calendar: PromotionCalendar,
    now_ms: int,
    manifest: Mapping[str, Any],
    spec: FeatureSpec,
) -> dict[str, Any]:
    """Returns what the event log tells: how late it is, and calibration."""
    if sources.events is None:
        return {"last_event_ms": None, "matched": None, "calibration": []}
    users = scores.rows["user_id"].unique()
    log = sources.events.scan().filter(pl.col("timestamp").dt.epoch("ms") <= now_ms)
    last = log.select(pl.col("timestamp").dt.epoch("ms").max()).collect().item()
    kind = sources.events.schema.field("user_id").type
    wanted = users.cast(pl.String if kind == "string" else pl.Int64).implode()
    events = log.filter(pl.col("user_id").is_in(wanted)).collect()
    clicks = labelled_clicks(events, calendar, config.labels)
    rows = scores.rows.with_columns(
        pl.col("user_id").cast(clicks.schema["user_id"]),
        pl.col("item_id").cast(clicks.schema["item_id"]),
    )
    matched = match(rows, clicks, config.monitor.match_minutes)
    sample = sample_rows(sources.examples, manifest, spec, _DELAY_ROWS)
    direct = np.asarray(sample["direct"].to_numpy()) == 1
    delays = np.asarray(sample["conversion_delay_ms"].to_numpy())[direct]
    return {
        "last_event_ms": last,
        "matched": len(matched),
        "calibration": calibration(matched, delays, now_ms, calendar, config.monitor),
    }


def _labels(sources: Sources, config: Config) -> dict[str, int] | None:
    if sources.model_config_file is None:
        return None
    file = ModelConfigFile(sources.model_config_file, config.export.name)
    return dict(placement_of(file.entry()).labels)


def _registry_faults(
    sources: Sources, config: Config, labels: Mapping[str, int] | None
) -> list[str] | None:
    if labels is None or not config.rollout.registry:
        return None
    return Aliases(config, config.export.name).faults(labels)


def _versions(
    rows: pl.DataFrame, labels: Mapping[str, int] | None, base_path: Path | None, now_ms: int
) -> list[dict[str, Any]]:
    """Returns number, share of the traffic, labels and age of every version that answered."""
    total = float(rows["weight"].sum())
    table = rows.group_by("version").agg(pl.col("weight").sum(), rows=pl.len()).sort("version")
    found = []
    for row in table.iter_rows(named=True):
        manifest = base_path / str(row["version"]) / MANIFEST if base_path else None
        known = manifest is not None and manifest.exists()
        age = now_ms / 1000 - manifest.stat().st_mtime if manifest and known else None
        of = sorted(label for label, v in (labels or {}).items() if v == row["version"])
        found.append(
            {
                "version": row["version"],
                "rows": row["rows"],
                "share": row["weight"] / total,
                "labels": None if labels is None else of,
                "age_seconds": None if age is None else max(age, 0.0),
            }
        )
    return found


def _means(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Returns the mean of each output by version."""
    return [
        {"version": int(version), "output": name, "mean": _mean(of_version, name)}
        for (version,), of_version in sorted(rows.group_by("version"), key=lambda part: part[0])
        for name in OUTPUTS
        if of_version[name].count()
    ]


def _mean(rows: pl.DataFrame, name: str) -> float:
    held = rows.filter(pl.col(name).is_not_null())
    return float(np.average(held[name].to_numpy(), weights=held["weight"].to_numpy()))


def _score_drift(reference: pl.DataFrame | None, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Returns the PSI of each output above chance, against the reference's deciles."""
    found = []
    for name in OUTPUTS if reference is not None else ():
        before, after = (
            f[name].drop_nulls().to_numpy() for f in (reference, rows) if f is not None
        )
        if len(before) and len(after):
            edges = decile_edges(before)
            psi, chance = excess_psi(bin_counts(before, edges), bin_counts(after, edges))
            found.append({"output": name, "psi": psi, "chance": chance})
    return found
