"""What a run is to make, and what it can take from an earlier one; the same for every runner."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import MANIFEST, read_manifest, sha256
from cmdcm.core.locations import Location
from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar, calendar_of, to_ms
from cmdcm.datasets.events import COLUMNS, TIME_TYPE
from cmdcm.datasets.log import EventLog, open_parquet
from cmdcm.features.columns import example_spec
from cmdcm.features.examples import EngineSettings
from cmdcm.features.labels import Periods
from cmdcm.features.shards import Shards

EXAMPLES = "examples"
"""The manifest's kind of a directory of examples."""

STATISTICS = "statistics.zip"
"""Name of the file with the statistics of each promotion."""

VERSION = 2
"""Of the examples; a change of a definition raises it, so that old results are not reused."""

_RUNTIME = ("memory_gib", "workers")
"""Settings that do not change the result."""

_COLUMNS = COLUMNS[: COLUMNS.index("detail")]
"""The columns of a log that make examples."""


def observed_until(last_ms: int, setting: str, calendar: PromotionCalendar) -> int:
    """Returns the end (exclusive, UTC ms) of what a log shows.

    The setting `labels.observed_until`, or else the end of the last event's local day: logs are
    delivered by whole days.
    """
    if setting:
        return to_ms(setting, calendar.timezone)
    day = calendar.local_days(np.array([last_ms]))[0] + np.timedelta64(1, "D")
    return to_ms(str(day), calendar.timezone)


def input_files(log: EventLog) -> dict[str, dict[str, Any]]:
    """Describes the files of a log: `bytes`, `sha256`, `rows`, `first_ms` and `last_ms` by name."""
    known = log.manifest.get("files", {})
    inputs = {}
    for file in log.files:
        first, last, rows = _bounds(file)
        name = log.name_of(file)
        hashed = known[name]["sha256"] if name in known else sha256(file)
        inputs[name] = {
            "bytes": file.stat().st_size,
            "sha256": hashed,
            "rows": rows,
            "first_ms": first,
            "last_ms": last,
        }
    return inputs


def _bounds(file: Location) -> tuple[int | None, int | None, int]:
    """Returns the first and the last timestamp of a file and its rows."""
    firsts: list[int] = []
    lasts: list[int] = []
    with open_parquet(file) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            column = parquet.read_row_group(group, columns=["timestamp"])["timestamp"]
            bounds = pc.min_max(column.cast(TIME_TYPE).cast(pa.int64())).as_py()
            if bounds["min"] is not None:
                firsts.append(bounds["min"])
                lasts.append(bounds["max"])
        return min(firsts, default=None), max(lasts, default=None), parquet.metadata.num_rows


@dataclass(frozen=True)
class Plan:
    """All that determines a run's result.

    Attributes:
        config: The configuration.
        settings: The engine's settings.
        columns: Columns of the log to read.
        inputs: The log's files (`input_files`).
        partitions: User partitions.
        rows_per_run: Events that the exchange holds at a time.
        previous: The data set to take earlier promotions from, if any.
        is_done: Whether `previous` is the result already.
    """

    config: Config
    settings: EngineSettings
    columns: tuple[str, ...]
    inputs: Mapping[str, Mapping[str, Any]]
    partitions: int
    rows_per_run: int
    previous: Path | None
    is_done: bool

    @classmethod
    def of(
        cls,
        log: EventLog,
        config: Config,
        previous: Path | None = None,
        as_observed_from: int | None = None,
    ) -> "Plan":
        """Plans the run of a log.

        Args:
            log: The events.
            config: The configuration.
            previous: A data set of earlier files of the log to update, if it is there.
            as_observed_from: As `cmdcm.features.pipeline.build_dataset` has it.
        """
        calendar = calendar_of(config.calendar)
        inputs = input_files(log)
        last_ms = max(e["last_ms"] for e in inputs.values() if e["rows"])
        observed = observed_until(last_ms, config.labels.observed_until, calendar)
        rows = sum(entry["rows"] for entry in inputs.values())
        partitions = config.features.partitions
        if not partitions:
            partitions = -(-rows // config.features.rows_per_partition)
            # By fours, so that the workers of a small machine end together.
            partitions = -(-partitions // 4) * 4 if partitions > 1 else 1
        first, done = as_observed_from or 0, False
        if previous is not None and (previous / MANIFEST).exists():
            manifest = read_manifest(previous, EXAMPLES)
            _check_settings(previous, config)
            partitions = manifest["partitions"]
            done = manifest["inputs"] == inputs and manifest["observed_until_ms"] == observed
            first = _first_touched(manifest, inputs, observed, config, calendar)
        settings = EngineSettings(
            spec=example_spec(config.features, log.schema, calendar, config.labels),
            calendar=calendar,
            features=config.features,
            labels=config.labels,
            observed_until_ms=observed,
            first_promotion=first,
            as_observed=as_observed_from is not None,
        )
        return cls(
            config=config,
            settings=settings,
            columns=tuple(name for name in _COLUMNS if name in log.schema.names),
            inputs=inputs,
            partitions=partitions,
            rows_per_run=min(round(config.features.memory_gib * 1_000_000), rows // 4 + 1),
            previous=previous if first else None,
            is_done=done,
        )

    @cached_property
    def key(self) -> str:
        """What has to be equal for a run to go on with another one's results."""
        return json.dumps(
            {
                "settings": _result_settings(self.config),
                "inputs": dict(self.inputs),
                "partitions": self.partitions,
                "rows_per_run": self.rows_per_run,
                "first_promotion": self.settings.first_promotion,
                "as_observed": self.settings.as_observed,
                "version": VERSION,
            },
            sort_keys=True,
        )

    def reused(self, directory: Path) -> Shards:
        """Links the shards of promotions that are not built anew into `directory`."""
        if self.previous is None:
            return Shards()
        manifest = read_manifest(self.previous, EXAMPLES)
        names = {p.name for p in self.settings.calendar.promotions[: self.settings.first_promotion]}
        days = {d: s for d, s in manifest["days"].items() if s["promotion"] in names}
        files = {n: f for n, f in manifest["files"].items() if n.split("/")[0] in days}
        for name in files:
            (directory / name).parent.mkdir(exist_ok=True)
            if not (directory / name).exists():
                _link(self.previous / name, directory / name)
        earlier = Shards.load(self.previous / STATISTICS, self.settings.spec)
        statistics = {name: s for name, s in earlier.statistics.items() if name in names}
        return Shards(days, files, statistics)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _result_settings(config: Config) -> dict[str, Any]:
    return {
        "calendar": config.calendar.model_dump(mode="json"),
        "labels": config.labels.model_dump(mode="json"),
        "features": config.features.model_dump(mode="json", exclude=set(_RUNTIME)),
    }


def _check_settings(previous: Path, config: Config) -> None:
    made = _result_settings(Config.load(previous / "config.json"))
    wanted = _result_settings(config)
    # These say how far to go, not what a row is.
    for settings in (made, wanted):
        settings["labels"].pop("observed_until")
        settings["features"].pop("partitions")
        settings["features"].pop("rows_per_partition")
    different = [
        f"{section}.{name}"
        for section, values in wanted.items()
        for name in values
        if values[name] != made[section].get(name)
    ]
    if different:
        raise ConfigError(
            f"{previous} was made with other settings: {', '.join(different)}. Make it anew with "
            "--overwrite instead of --update."
        )


def _first_touched(
    manifest: Mapping[str, Any],
    inputs: Mapping[str, Mapping[str, Any]],
    observed_until_ms: int,
    config: Config,
    calendar: PromotionCalendar,
) -> int:
    """Returns the number of the first promotion of which an example may have changed.

    An event reaches the labels of the promotion that it falls into, and the features of all later
    clicks. So the promotions stay whose labels were settled before the first event of any file
    that is new, changed or gone.
    """
    before = manifest["inputs"]
    names = {n for n in {*before, *inputs} if before.get(n) != inputs.get(n)}
    times = [
        files[name]["first_ms"]
        for files in (before, inputs)
        for name in names
        if name in files and files[name]["rows"]
    ]
    settled_until = min([manifest["observed_until_ms"], observed_until_ms, *times])
    if config.features.max_events_per_hour:
        # An event may make a bot of its user, from the start of the event's hour on.
        settled_until = settled_until // HOUR_MS * HOUR_MS
    later = Periods.of(config.labels).refund
    return sum(p.promotion_end_ms + later <= settled_until for p in calendar.promotions)
