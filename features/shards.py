"""The shards of one user partition: TFRecord files by local day, and what they hold."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cmdcm.core.errors import DataError
from cmdcm.core.files import describe_file, staged_file
from cmdcm.core.locations import Location
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.features.columns import labels_of
from cmdcm.features.encode import RecordWriter, canonical
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder

_ACCOUNT = "shards.json"
_STATISTICS = "statistics/"


@dataclass
class Shards:
    """What was written of a partition, or of several.

    Attributes:
        days: By local day (ISO): `promotion`, `rows`, and the sum of every label.
        files: By path below the data set: `bytes` and `sha256`.
        statistics: By promotion.
    """

    days: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: dict[str, StatisticsBuilder] = field(default_factory=dict)

    def merge(self, other: "Shards") -> None:
        """Adds what was written of other partitions or days."""
        self.files |= other.files
        for day, summary in other.days.items():
            mine = self.days.setdefault(day, {"promotion": summary["promotion"]})
            for name in summary.keys() - {"promotion"}:
                mine[name] = mine.get(name, 0) + summary[name]
        for promotion, builder in other.statistics.items():
            if promotion in self.statistics:
                self.statistics[promotion].merge(builder)
            else:
                self.statistics[promotion] = builder

    def save(self, path: Path) -> None:
        """Writes the account as one file, which appears when it is complete."""
        account = {"days": self.days, "files": self.files}
        with staged_file(path) as staging, zipfile.ZipFile(staging, "w") as file:
            file.writestr(zipfile.ZipInfo(_ACCOUNT), json.dumps(account, sort_keys=True))
            for promotion, builder in sorted(self.statistics.items()):
                file.writestr(zipfile.ZipInfo(_STATISTICS + promotion), builder.to_bytes())

    @classmethod
    def load(cls, path: Location, spec: FeatureSpec) -> "Shards":
        """Reads what `save` wrote.

        Raises:
            DataError: The file is not there, or was not written by `save`.
        """
        try:
            with path.open("rb") as stream, zipfile.ZipFile(stream) as file:
                account = json.loads(file.read(_ACCOUNT))
                statistics = {
                    name.removeprefix(_STATISTICS): StatisticsBuilder.from_bytes(
                        spec, file.read(name)
                    )
                    for name in file.namelist()
                    if name.startswith(_STATISTICS)
                }
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"cannot read {path}, an account of shards: {error}") from error
        return cls(account["days"], account["files"], statistics)

    def intact(self, directory: Location) -> bool:
        """Returns whether every file is in `directory` as it was written."""
        return all(
            (directory / name).exists() and describe_file(directory / name) == dict(described)
            for name, described in self.files.items()
        )


def shard_name(partition: int, gzip: bool) -> str:
    """Returns the name of a partition's shard in the folder of each day."""
    return f"part-{partition:05d}.tfrecord" + (".gz" if gzip else "")


def write_shards(
    tables: Iterable[pa.Table],
    directory: Path,
    name: str,
    spec: FeatureSpec,
    calendar: PromotionCalendar,
    gzip: bool,
) -> Shards:
    """Writes the examples of a partition as `directory/YYYY-MM-DD/NAME`.

    Args:
        tables: Tables as `examples.build_examples` yields them: in the order of days, none of two
            promotions. One at a time is held.
        directory: The data set's directory.
        name: File name of the shards.
        spec: The columns.
        calendar: Whose local days the folders are.
        gzip: Whether to compress.
    """
    shards = Shards()
    writer: RecordWriter | None = None
    current = ""
    labels = labels_of(spec)

    def finish() -> None:
        if writer is not None:
            writer.close()
            shards.files[f"{current}/{name}"] = {"bytes": writer.bytes, "sha256": writer.sha256()}

    try:
        for table in tables:
            promotion = table["promotion"][0].as_py()
            table = _canonical(table)
            shards.statistics.setdefault(promotion, StatisticsBuilder(spec)).add(table)
            for day, part in _by_day(table, calendar):
                if day != current:
                    finish()
                    current = day
                    (directory / day).mkdir(exist_ok=True)
                    writer = RecordWriter(directory / day / name, gzip)
                    counts = dict.fromkeys(("rows", *labels), 0)
                    shards.days[day] = {"promotion": promotion, **counts}
                assert writer is not None  # noqa: S101 - every table begins a day or goes on with one
                writer.add(part)
                shards.days[day]["rows"] += part.num_rows
                for label in labels:
                    shards.days[day][label] += int(np.sum(part[label].to_numpy()))
        finish()
    finally:
        if writer is not None:
            writer.close()
    return shards


def _canonical(table: pa.Table) -> pa.Table:
    """Casts the columns once to the types in which they are counted and encoded."""
    columns = {
        name: canonical(column.combine_chunks(), name)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table({name: column for name, column in columns.items() if column is not None})


def _by_day(table: pa.Table, calendar: PromotionCalendar) -> Iterator[tuple[str, pa.Table]]:
    days = calendar.local_days(table["click_time_ms"].to_numpy())
    starts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(days)], strict=True):
        yield str(days[first]), table.slice(first, end - first)
