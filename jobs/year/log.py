"""The year's event log, one Parquet file a local month, and what faults do to its days.

A fault edits the delivered file; mending puts the original back.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import polars as pl

from cmdcm.core.files import staged_file
from cmdcm.datasets.log import EventLog

Edit = Callable[[pl.DataFrame, pl.Expr], pl.DataFrame]
"""Events of a month and the rows of a day in them -> the events that are delivered."""


def missing_day(events: pl.DataFrame, on_day: pl.Expr) -> pl.DataFrame:
    """Leaves out the day."""
    return events.filter(~on_day)


def schema_change(events: pl.DataFrame, on_day: pl.Expr) -> pl.DataFrame:
    """Calls a column of the contract otherwise, in the whole file."""
    return events.rename({"item_id": "sku"})


def drifted_prices(events: pl.DataFrame, on_day: pl.Expr) -> pl.DataFrame:
    """Writes the day's prices in hundredths."""
    return events.with_columns(price=pl.when(on_day).then(pl.col("price") * 100).otherwise("price"))


def label_outage(events: pl.DataFrame, on_day: pl.Expr) -> pl.DataFrame:
    """Leaves out the day's purchases."""
    return events.filter(~(on_day & (pl.col("kind") == "purchase")))


def inflated_carts(events: pl.DataFrame, on_day: pl.Expr) -> pl.DataFrame:
    """Adds a cart a second after each of the day's clicks, as a script would click it."""
    carts = events.filter(on_day & (pl.col("kind") == "click")).with_columns(
        kind=pl.lit("cart"), timestamp=pl.col("timestamp") + pl.duration(seconds=1)
    )
    return pl.concat([events, carts])


def late_data(events: pl.DataFrame, on_day: pl.Expr) -> pl.DataFrame:
    """Leaves out every other purchase of the day."""
    late = on_day & (pl.col("kind") == "purchase")
    return events.filter(~late | (late.cum_sum() % 2 == 0))


EDITS: Mapping[str, Edit] = {
    edit.__name__: edit
    for edit in (
        missing_day,
        schema_change,
        drifted_prices,
        label_outage,
        inflated_carts,
        late_data,
    )
}
"""The faults of the log, by the name of the fault."""


class MonthlyLog:
    """A log that faults edit.

    Args:
        folder: Gets `YYYY-MM.parquet`.
        timezone: Cuts days and months.
    """

    def __init__(self, folder: Path, timezone: str) -> None:
        self.folder, self.timezone = folder, timezone
        self._kept = folder.with_name(f"{folder.name}.kept")
        self._edited: list[str] = []

    def write(self, log: EventLog) -> None:
        """Writes the events of a log."""
        events = log.scan().with_columns(pl.col("kind").cast(pl.String)).collect()
        months = self._local("timestamp").dt.strftime("%Y-%m")
        for (month,), part in events.group_by(months.alias("month"), maintain_order=True):
            with staged_file(self.folder / f"{month}.parquet") as staging:
                part.sort("timestamp", maintain_order=True).write_parquet(staging)

    def edit(self, day: str, edit: Edit) -> None:
        """Delivers a day's month with a fault."""
        name = f"{day[:7]}.parquet"
        self._kept.mkdir(exist_ok=True)
        shutil.copyfile(self.folder / name, self._kept / name)
        self._edited.append(name)
        events = pl.read_parquet(self.folder / name)
        on_day = self._local("timestamp").dt.date() == date.fromisoformat(day)
        with staged_file(self.folder / name) as staging:
            edit(events, on_day).write_parquet(staging)

    def mend(self) -> None:
        """Delivers the edited months again, as they should have been."""
        while self._edited:
            name = self._edited.pop()
            os.utime(self._kept / name)  # a delivery has its own time
            (self._kept / name).replace(self.folder / name)

    def _local(self, column: str) -> pl.Expr:
        return pl.col(column).dt.convert_time_zone(self.timezone)
