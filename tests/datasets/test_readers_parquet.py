"""One's own Parquet: mapped columns, safe types, and messages that name the column."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from cmdcm.core.config import CalendarConfig, Config, EventsConfig
from cmdcm.core.errors import CmdcmError, ConfigError, DataError
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.readers import ImportReport, import_log, read

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
COLUMNS = {"user_id": "uid", "item_id": "sku", "kind": "action", "timestamp": "at"}


def own(rows: int = 3, **columns: Any) -> pl.DataFrame:
    """Some rows of a shop's own log; `columns` replace or add to the usual ones."""
    data = {
        "uid": [7] * rows,
        "sku": [f"item-{k}" for k in range(rows)],
        "action": ["view", "basket", "order"][:rows],
        "at": pl.Series([NOON] * rows).cast(pl.Datetime("us", "UTC")),
        **columns,
    }
    return pl.DataFrame(data)


def events_of(
    path: Path, timezone: str = "Europe/Berlin", **settings: Any
) -> tuple[list[dict[str, Any]], ImportReport]:
    report = ImportReport()
    options: dict[str, Any] = {
        "columns": COLUMNS,
        "kinds": {"view": "click", "basket": "cart", "order": "purchase"},
        **settings,
    }
    tables = read("parquet", path, EventsConfig(**options), timezone, report)
    return [event for table in tables for event in table.to_pylist()], report


def test_columns_and_kinds_are_mapped(tmp_path: Path) -> None:
    frame = own(
        price=pl.Series([1, 2, None], dtype=pl.Int16),
        quantity=pl.Series([1, 2, 3], dtype=pl.UInt8),
        session_id=[1, 2, 3],
        brand_id=["", None, "acme"],
        colour=["red"] * 3,
    )
    frame.write_parquet(tmp_path / "own.parquet")
    events, report = events_of(tmp_path / "own.parquet")
    assert events == [
        {
            "user_id": 7,
            "item_id": f"item-{k}",
            "kind": kind,
            "timestamp": NOON,
            "brand_id": brand,
            "price": price,
            "quantity": k + 1,
            "session_id": str(k + 1),
        }
        for k, (kind, brand, price) in enumerate(
            [("click", None, 1.0), ("cart", None, 2.0), ("purchase", "acme", None)]
        )
    ]
    assert report.notes == ["columns that are left out: colour"]
    assert (report.rows_read, report.users, report.items, report.rows_rejected) == (3, 1, 3, 0)


def test_contract_names_need_no_mapping_and_round_trip(tmp_path: Path) -> None:
    frame = own(action=["click", "cart", "refund"]).rename({v: k for k, v in COLUMNS.items()})
    frame.write_parquet(tmp_path / "own.parquet")
    import_log("parquet", tmp_path / "own.parquet", tmp_path / "log", Config())
    import_log("parquet", tmp_path / "log", tmp_path / "again", Config())
    first, again = (open_event_log(tmp_path / name) for name in ("log", "again"))
    assert pa.concat_tables(first.batches()).equals(pa.concat_tables(again.batches()))
    assert again.manifest["rows_by_kind"] == {"click": 1, "cart": 1, "refund": 1}


def test_several_files_are_one_log(tmp_path: Path) -> None:
    for month in ("02", "01"):
        (tmp_path / month).mkdir()
        own(sku=[f"{month}-{k}" for k in range(3)]).write_parquet(tmp_path / month / "a.parquet")
    (tmp_path / "_committed.parquet").write_text("not data")
    seen: list[int] = []
    config = EventsConfig(columns=COLUMNS, kinds={"view": "click", "basket": "", "order": "micro"})
    report = ImportReport()
    tables = read("parquet", tmp_path, config, "UTC", report, on_bytes=seen.append)
    assert [event["item_id"] for table in tables for event in table.to_pylist()] == [
        "01-0",
        "01-2",
        "02-0",
        "02-2",
    ]
    assert report.dropped == {"kind 'basket' is left out": 2}
    assert seen[-1] == sum(file.stat().st_size for file in tmp_path.glob("*/a.parquet"))


def test_integer_kinds_and_plain_kinds_beside_mapped_ones(tmp_path: Path) -> None:
    own(action=[1, 4, 1]).write_parquet(tmp_path / "own.parquet")
    events, _ = events_of(tmp_path / "own.parquet", kinds={"1": "click", "4": "purchase"})
    assert [event["kind"] for event in events] == ["click", "purchase", "click"]
    own(action=["view", "click", "cart"]).write_parquet(tmp_path / "own.parquet")
    events, _ = events_of(tmp_path / "own.parquet", kinds={"view": "click"})
    assert [event["kind"] for event in events] == ["click", "click", "cart"]


def test_bad_rows_are_rejected_with_their_row_number(tmp_path: Path) -> None:
    many = 10
    frame = own(
        rows=many,
        uid=[7, None, *[7] * 8],
        sku=["a", "b", "", *["c"] * 7],
        action=["view"] * 3 + ["look", None] + ["view"] * 5,
        at=pl.Series([NOON] * 5 + [None, NOON.replace(year=1980)] + [NOON] * 3),
        price=[1.0] * 7 + [-1.0, float("nan"), float("inf")],
    )
    frame.write_parquet(tmp_path / "a.parquet")
    own().write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: column 'price' is missing, but double in"):
        events_of(tmp_path)
    own(price=[1.0] * 3).write_parquet(tmp_path / "b.parquet")
    events, report = events_of(tmp_path, max_rejected_share=1)
    assert {reason: rejected.lines for reason, rejected in report.rejected.items()} == {
        "uid is empty": [2],
        "sku is empty": [3],
        "unknown event kind": [4],
        "action is empty": [5],
        "at is empty": [6],
        "time is outside 1990 to 2099": [7],
        "price is not a number from 0 up": [8, 10],
    }
    assert report.rejected["unknown event kind"].example.startswith("a.parquet row 4: 7, c, look")
    assert [event["price"] for event in events] == [1.0, None, 1.0, 1.0, 1.0]
    with pytest.raises(DataError, match=r"unknown event kind: 1 \(row 4: 'a\.parquet row 4"):
        events_of(tmp_path)


@pytest.mark.parametrize(
    ("at", "timezone", "expected", "resolution"),
    [
        (pl.Series([NOON]).cast(pl.Datetime("ns", "UTC")), "Asia/Tokyo", NOON, "hour"),
        (
            pl.Series([NOON]).dt.convert_time_zone("America/New_York"),
            "Asia/Tokyo",
            NOON,
            "hour",
        ),
        (
            pl.Series([datetime(2024, 6, 1, 12, 0, 0, 1999)]),
            "Europe/Berlin",
            datetime(2024, 6, 1, 10, 0, 0, 1000, UTC),
            "ms",
        ),
        (
            pl.Series([date(2024, 6, 1)]),
            "Asia/Kolkata",
            datetime(2024, 5, 31, 18, 30, tzinfo=UTC),
            "day",
        ),
        (pl.Series([1717243201]), "Asia/Tokyo", NOON.replace(second=1), "second"),
        (pl.Series([1717243201000]), "Asia/Tokyo", NOON.replace(second=1), "second"),
        (
            pl.Series([1717243201001999]),
            "Asia/Tokyo",
            NOON.replace(second=1, microsecond=1000),
            "ms",
        ),
    ],
    ids=["ns", "zone", "naive", "date", "seconds", "milliseconds", "microseconds"],
)
def test_every_type_of_time(
    tmp_path: Path, at: pl.Series, timezone: str, expected: datetime, resolution: str
) -> None:
    own(1, at=at).write_parquet(tmp_path / "own.parquet")
    events, report = events_of(tmp_path / "own.parquet", timezone)
    assert [event["timestamp"] for event in events] == [expected]
    assert report.resolution == resolution
    named = at.dtype.is_integer() or at.dtype == pl.Date or at.dtype.time_zone is None  # type: ignore[attr-defined]
    assert bool(report.notes) == named, "an assumption about the time is told"


def test_wall_clock_times_at_a_change_of_the_clocks(tmp_path: Path) -> None:
    twice, never = datetime(2024, 10, 27, 2, 30), datetime(2024, 3, 31, 2, 30)
    own(2, at=[twice, never]).write_parquet(tmp_path / "own.parquet")
    events, report = events_of(tmp_path / "own.parquet", max_rejected_share=0.5)
    assert [event["timestamp"] for event in events] == [datetime(2024, 10, 27, 0, 30, tzinfo=UTC)]
    assert report.rejected["time is not parseable"].lines == [2]


WRONG = [
    ({"at": ["2024-06-01"]}, r"column 'at' \(timestamp\) is large_string, expected a timestamp;"),
    ({"at": [17]}, r"column 'at' \(timestamp\) is int64, expected a timestamp"),
    ({"uid": [1.0]}, r"column 'uid' \(user_id\) is double, expected integers or strings"),
    ({"sku": [b"x"]}, r"column 'sku' \(item_id\) is large_binary, expected integers or strings"),
    ({"action": [1.0]}, r"column 'action' \(kind\) is double, expected strings or integers"),
    ({"price": ["1"]}, r"column 'price' \(price\) is large_string, expected numbers"),
    ({"quantity": [1.5]}, r"column 'quantity' \(quantity\) is double, expected integers"),
]


@pytest.mark.parametrize(("columns", "message"), WRONG, ids=lambda value: str(value)[:12])
def test_wrong_type_names_column_type_and_remedy(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    own(1, **columns).write_parquet(tmp_path / "own.parquet")
    with pytest.raises(DataError, match=r"own\.parquet: " + message):
        events_of(tmp_path / "own.parquet")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    own(1, uid=[1.0], quantity=[True]).write_parquet(tmp_path / "own.parquet")
    with pytest.raises(DataError, match=r"'uid' .* is double.*; column 'quantity' .* is bool"):
        events_of(tmp_path / "own.parquet")


SETTINGS: list[tuple[dict[str, Any], type[CmdcmError], str]] = [
    ({"columns": {}}, DataError, r"column 'user_id' is missing; .* set events\.columns\.user_id"),
    ({"columns": {"user_id": "x"}}, DataError, r"column 'x' \(events\.columns\.user_id\) is miss"),
    ({"columns": {"userid": "uid"}}, ConfigError, r"events\.columns names \['userid'\]"),
    ({"kinds": {"view": "look"}}, ConfigError, r"events\.kinds maps 'view' to 'look'; expected"),
]


@pytest.mark.parametrize(("settings", "error", "message"), SETTINGS)
def test_wrong_settings(
    tmp_path: Path, settings: dict[str, Any], error: type[CmdcmError], message: str
) -> None:
    own().write_parquet(tmp_path / "own.parquet")
    with pytest.raises(error, match=message):
        events_of(tmp_path / "own.parquet", **settings)


def test_quantity_that_does_not_fit(tmp_path: Path) -> None:
    own(2, quantity=[1, 2**31]).write_parquet(tmp_path / "own.parquet")
    _, report = events_of(tmp_path / "own.parquet", max_rejected_share=0.5)
    assert report.rejected["quantity is not a 32-bit integer"].lines == [2]


def test_files_of_which_nothing_is_left(tmp_path: Path) -> None:
    own(2, action=["look", "look"]).write_parquet(tmp_path / "1.parquet")
    own(2, at=[NOON.replace(year=2020)] * 2).write_parquet(tmp_path / "2.parquet")
    own(1).write_parquet(tmp_path / "3.parquet")
    events, report = events_of(tmp_path, max_rejected_share=0.5, start="2024-01-01")
    assert [event["timestamp"] for event in events] == [NOON]
    assert (report.rows_rejected, report.rows_dropped, report.resolution) == (2, 2, "hour")
    (tmp_path / "3.parquet").unlink()
    with pytest.raises(DataError, match="no event is left of 4 rows"):
        events_of(tmp_path, max_rejected_share=0.5, start="2024-01-01")


def test_order_across_files(tmp_path: Path) -> None:
    own(2, at=[NOON, NOON]).write_parquet(tmp_path / "1.parquet")
    own(1, at=[NOON.replace(hour=11)]).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match="row 3 is earlier than row 2"):
        events_of(tmp_path, require_time_order=True)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input not found"):
        events_of(tmp_path / "none")
    own().write_parquet(tmp_path / "own.parquet")
    content = (tmp_path / "own.parquet").read_bytes()
    (tmp_path / "own.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"own\.parquet cannot be read as Parquet"):
        events_of(tmp_path / "own.parquet")


def test_manifest_of_an_import(tmp_path: Path) -> None:
    own(1, at=pl.Series([date(2024, 6, 1)])).write_parquet(tmp_path / "own.parquet")
    events = EventsConfig(columns=COLUMNS, kinds={"view": "click"})
    config = Config(events=events, calendar=CalendarConfig(built_in="black_friday"))
    import_log("parquet", tmp_path / "own.parquet", tmp_path / "log", config)
    manifest = open_event_log(tmp_path / "log").manifest
    assert manifest["first_timestamp"] == "2024-06-01T04:00:00.000+00:00"
    assert {key: manifest[key] for key in ("format", "timezone", "resolution", "days")} == {
        "format": "parquet",
        "timezone": "America/New_York",
        "resolution": "day",
        "days": 1,
    }
    assert manifest["config"]["columns"] == COLUMNS


def test_large_files_come_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdcm.datasets.readers.parquet.BATCH_ROWS", 100)
    rows = 1000
    own(rows, action=["view"] * rows).write_parquet(tmp_path / "own.parquet")
    config = EventsConfig(columns=COLUMNS, kinds={"view": "click"})
    tables = list(read("parquet", tmp_path, config, "UTC"))
    assert [table.num_rows for table in tables] == [100] * 10
