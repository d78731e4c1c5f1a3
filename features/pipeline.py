"""The local runner: an event log on disk -> a directory of labelled examples.

    events -> user partitions -> totals over all users -> examples of each partition -> shards

What it writes, atomically, with a SHA-256 manifest:

    YYYY-MM-DD/part-00000.tfrecord[.gz]   examples by local day of the click and user partition
    spec.json, schema.pbtxt               contract 3, and the same as tensorflow-metadata
    statistics.pbtxt                      of every column
    config.json, manifest.json            what made it, and rows and labels by day and promotion
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cmdcm.core.config import CalendarConfig, Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest, staged_directory, write_manifest
from cmdcm.core.progress import track_progress
from cmdcm.datasets.calendar import (
    DAY_MS,
    PromotionCalendar,
    built_in,
    promotion,
    to_ms,
)
from cmdcm.datasets.events import KIND_ENUM
from cmdcm.datasets.log import EventLog
from cmdcm.features.columns import ITEM_PROMOTIONS, LABELS, example_spec
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.examples import EngineSettings, build_examples
from cmdcm.features.history import History, Totals, add_totals, partition_totals
from cmdcm.features.schema import write_schema
from cmdcm.features.statistics import StatisticsBuilder

EXAMPLES = "examples"
"""The manifest's kind of a directory of examples."""


def calendar_of(config: CalendarConfig) -> PromotionCalendar:
    """Returns the calendar that the configuration names or lists."""
    if not config.promotions:
        return built_in(config.built_in)
    promotions = [
        promotion(
            p.name,
            p.kind,
            config.timezone,
            (p.warmup_start, p.pre_promotion_start, p.promotion_start, p.promotion_end),
        )
        for p in config.promotions
    ]
    return PromotionCalendar(config.timezone, tuple(promotions))


def build_dataset(
    log: EventLog, target: Path, config: Config, *, overwrite: bool = False
) -> dict[str, Any]:
    """Makes the examples of an event log.

    Args:
        log: The events.
        target: Directory to write.
        config: Calendar, labels and features; written beside the examples.
        overwrite: Replace an existing `target`.

    Returns:
        The manifest.

    Raises:
        DataError: The log has no click in any pre-promotion window whose labels are known.
    """
    calendar = calendar_of(config.calendar)
    first_ms, last_ms = _time_range(log)
    settings = EngineSettings(
        spec=example_spec(config.features, log.schema, calendar),
        calendar=calendar,
        features=config.features,
        labels=config.labels,
        observed_until_ms=observed_until(last_ms, config.labels.observed_until, calendar),
    )
    with staged_directory(target, overwrite=overwrite) as staging:
        work = staging / "work"
        parts = _partition(
            log, work, config.features.partitions, config.features.rows_per_partition
        )
        totals: Totals = {}
        for part in track_progress(parts, "counting items"):
            more = partition_totals(
                _read(part), calendar, config.features.count_kinds, config.labels.intent
            )
            totals = add_totals([totals, more]) if totals else more
        history = History.of(totals, config.features.count_kinds)
        statistics = StatisticsBuilder(settings.spec)
        days: dict[str, dict[str, Any]] = {}
        for number, part in enumerate(track_progress(parts, "building examples")):
            tables = build_examples(_read(part), history, settings)
            _write_partition(
                tables, staging, number, calendar, config.features.gzip, days, statistics
            )
        shutil.rmtree(work)
        if not days:
            raise DataError(_no_examples(calendar, first_ms, last_ms, settings.observed_until_ms))
        settings.spec.save(staging / "spec.json")
        config.save(staging / "config.json")
        write_schema(staging / "schema.pbtxt", settings.spec)
        statistics.write(staging / "statistics.pbtxt")
        write_manifest(
            staging,
            {
                "kind": EXAMPLES,
                "rows": sum(day["rows"] for day in days.values()),
                "days": days,
                "promotions": _by_promotion(days),
                "pairs": _pairs(totals, calendar),
                "timezone": calendar.timezone,
                "observed_until_ms": settings.observed_until_ms,
                "events": {k: v for k, v in log.manifest.items() if k != "files"},
            },
        )
    return read_manifest(target, EXAMPLES)


def observed_until(last_ms: int, setting: str, calendar: PromotionCalendar) -> int:
    """Returns the end (exclusive, UTC ms) of what a log shows.

    The setting `labels.observed_until`, or else the end of the last event's local day: logs are
    delivered by whole days.
    """
    if setting:
        return to_ms(setting, calendar.timezone)
    day = calendar.local_days(np.array([last_ms]))[0] + np.timedelta64(1, "D")
    return to_ms(str(day), calendar.timezone)


def _time_range(log: EventLog) -> tuple[int, int]:
    bounds = log.scan().select(
        first=pl.col("timestamp").min().dt.epoch("ms"),
        last=pl.col("timestamp").max().dt.epoch("ms"),
    )
    first, last = bounds.collect().row(0)
    return int(first), int(last)


def _partition(log: EventLog, work: Path, partitions: int, rows_per_partition: int) -> list[Path]:
    """Splits the log by user into files of about `rows_per_partition` events."""
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in log.files)
    count = partitions or max(1, -(-rows // rows_per_partition))
    work.mkdir()
    paths = [work / f"{number:05d}.parquet" for number in range(count)]
    writers: dict[int, pq.ParquetWriter] = {}
    try:
        for batch in track_progress(log.batches(), "partitioning by user"):
            frame = pl.DataFrame(pl.from_arrow(batch)).with_columns(
                partition=pl.col("user_id").hash(seed=0) % count
            )
            for (number,), rows_of in frame.partition_by("partition", as_dict=True).items():
                table = rows_of.drop("partition").to_arrow()
                if number not in writers:
                    writers[number] = pq.ParquetWriter(
                        paths[number], table.schema, compression="lz4"
                    )
                writers[number].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()
    return [path for path in paths if path.exists()]


def _read(part: Path) -> pl.DataFrame:
    return pl.read_parquet(part).with_columns(
        pl.col("kind").cast(pl.String).cast(KIND_ENUM),
    )


def _write_partition(
    tables: Iterator[pa.Table],
    target: Path,
    number: int,
    calendar: PromotionCalendar,
    gzip: bool,
    days: dict[str, dict[str, Any]],
    statistics: StatisticsBuilder,
) -> None:
    by_day: dict[str, list[pa.Table]] = {}
    for table in tables:
        statistics.add(table)
        day = str(calendar.local_days(table["click_time_ms"][:1].to_numpy())[0])
        by_day.setdefault(day, []).append(table)
        summary = days.setdefault(day, {"promotion": table["promotion"][0].as_py(), "rows": 0})
        summary["rows"] += len(table)
        for name in LABELS:
            summary[name] = summary.get(name, 0) + int(np.sum(table[name].to_numpy()))
    for day, of_day in by_day.items():
        folder = target / day
        folder.mkdir(exist_ok=True)
        name = f"part-{number:05d}.tfrecord" + (".gz" if gzip else "")
        write_tfrecords(folder / name, of_day, gzip=gzip)


def _by_promotion(days: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    promotions: dict[str, dict[str, Any]] = {}
    for day, summary in sorted(days.items()):
        entry = promotions.setdefault(summary["promotion"], {"first_day": day})
        entry["last_day"] = day
        for name in ("rows", *LABELS):
            entry[name] = entry.get(name, 0) + summary[name]
    return promotions


def _pairs(totals: Totals, calendar: PromotionCalendar) -> dict[str, dict[str, int]]:
    """What (user, item) pairs did in each promotion, summed; see `columns.ITEM_PROMOTIONS`."""
    sums = totals["item_promotions"].group_by("time").agg(pl.col(list(ITEM_PROMOTIONS)).sum())
    names = [p.name for p in calendar.promotions]
    return {names[row.pop("time")]: row for row in sums.sort("time").to_dicts()}


def _no_examples(calendar: PromotionCalendar, first: int, last: int, observed: int) -> str:
    def day(instant: int) -> str:
        return str(calendar.local_days(np.array([instant]))[0])

    windows = [
        f"{p.name} {day(p.pre_promotion_start_ms)}..{day(p.promotion_end_ms - DAY_MS)}"
        for p in calendar.promotions
        if p.promotion_end_ms > first and p.pre_promotion_start_ms <= last
    ]
    return (
        "no click lies in a pre-promotion window whose promotion is over: the log covers "
        f"{day(first)}..{day(last)} (observed until {day(observed)}), the calendar's windows near "
        f"it are {windows or 'none'}. Set [calendar] for this log, or import more days."
    )
