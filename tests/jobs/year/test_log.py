"""Faults of the log change the day they are of, and mending brings the very bytes back."""

from datetime import UTC, datetime

import polars as pl
import pytest

from cmdcm.core.errors import DataError
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.year.log import EDITS, MonthlyLog

DAY, OTHER = "2024-06-09", "2024-06-10"
# Local midnight in Shanghai is 16:00 UTC of the day before.
FIRST = {DAY: datetime(2024, 6, 8, 16, tzinfo=UTC), OTHER: datetime(2024, 6, 9, 16, tzinfo=UTC)}


@pytest.fixture
def log(tmp_path):
    rows = [
        ("u", f"{kind}{n}", kind, FIRST[day].replace(minute=n), 10.0)
        for day in (DAY, OTHER)
        for kind, count in (("click", 6), ("cart", 2), ("purchase", 4))
        for n in range(count)
    ]
    frame = pl.DataFrame(
        rows, ["user_id", "item_id", "kind", "timestamp", "price"], orient="row"
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")))
    frame.write_parquet(tmp_path / "source.parquet")
    monthly = MonthlyLog(tmp_path / "log", "Asia/Shanghai")
    monthly.write(open_event_log(tmp_path / "source.parquet"))
    return monthly


def counts(log, day):
    frame = open_event_log(log.folder).scan().collect()
    local = pl.col("timestamp").dt.convert_time_zone("Asia/Shanghai").dt.date().cast(pl.String)
    kinds = frame.filter(local == day)["kind"].cast(pl.String).to_list()
    return {kind: kinds.count(kind) for kind in ("click", "cart", "purchase")}


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ("missing_day", {"click": 0, "cart": 0, "purchase": 0}),
        ("drifted_prices", {"click": 6, "cart": 2, "purchase": 4}),
        ("label_outage", {"click": 6, "cart": 2, "purchase": 0}),
        ("inflated_carts", {"click": 6, "cart": 8, "purchase": 4}),
        ("late_data", {"click": 6, "cart": 2, "purchase": 2}),
    ],
)
def test_a_fault_is_of_one_day_and_mended_as_it_was(log, fault, left):
    [file] = log.folder.iterdir()
    before, other = file.read_bytes(), counts(log, OTHER)
    log.edit(DAY, EDITS[fault])
    assert counts(log, DAY) == left and counts(log, OTHER) == other
    log.mend()
    assert file.read_bytes() == before


def test_drifted_prices_are_the_days_alone(log):
    log.edit(DAY, EDITS["drifted_prices"])
    frame = pl.read_parquet(log.folder / "2024-06.parquet")
    assert frame["price"].value_counts().sort("price").rows() == [(10.0, 12), (1000.0, 12)]


def test_a_changed_schema_is_refused_by_the_log_with_file_and_column(log):
    log.edit(DAY, EDITS["schema_change"])
    with pytest.raises(DataError, match=r"2024-06\.parquet.*item_id"):
        open_event_log(log.folder)
    log.mend()
    assert counts(log, DAY)["click"] == 6
