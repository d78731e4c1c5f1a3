"""The readers of the public raw logs: every row is an event, a rejection or a drop."""

import gzip
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmdcm.core.config import CalendarConfig, Config, EventsConfig, PromotionConfig
from cmdcm.core.errors import ConfigError, DataError, OutputError
from cmdcm.datasets.events import check_schema
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.readers import FORMATS, ImportReport, import_log, log_timezone, read
from cmdcm.datasets.readers import lines as lines_module
from cmdcm.tests.datasets.raw_lines import REES46, TAOBAO, TMALL, Raw, lines, spoil

TAOBAO_LOG = Path(
    os.environ.get("CMDCM_TAOBAO_LOG")
    or Path(__file__).resolve().parents[3] / "shared/data/taobao/UserBehavior.csv.gz"
)
GOOD = "1,2268318,2520377,pv,1511544070"


def events_of(
    path: Path,
    format: str = "taobao",
    timezone: str | None = None,
    block_bytes: int = 1 << 20,
    **settings: Any,
) -> tuple[list[dict[str, Any]], ImportReport]:
    report = ImportReport()
    config = EventsConfig(**settings)
    timezone = timezone or log_timezone(format, CalendarConfig())
    events: list[dict[str, Any]] = []
    for table in read(format, path, config, timezone, report, block_bytes=block_bytes):
        check_schema(table.schema, format)
        events += table.to_pylist()
    return events, report


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


# Each format, by hand.


def test_taobao(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        GOOD,
        "1,7,,fav,1511544070",
        "2,7,9,cart,1512144000",
        "2,7,9,buy,1512144001",
    )
    events, report = events_of(path)
    assert events == [
        {
            "user_id": user,
            "item_id": item,
            "kind": kind,
            "timestamp": timestamp,
            "category_id": category,
        }
        for user, item, kind, timestamp, category in [
            (1, 2268318, "click", utc(2017, 11, 24, 17, 21, 10), 2520377),
            (1, 7, "favourite", utc(2017, 11, 24, 17, 21, 10), None),
            (2, 7, "cart", utc(2017, 12, 1, 16), 9),
            (2, 7, "purchase", utc(2017, 12, 1, 16, 0, 1), 9),
        ]
    ]
    assert report.resolution == "second"
    assert report.rows_by_kind == {"click": 1, "favourite": 1, "cart": 1, "purchase": 1}
    assert (report.rows_read, report.users, report.items) == (4, 2, 2)
    assert report.days == ["2017-11-25", "2017-12-02"], "days of Asia/Shanghai"


def test_tianchi(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "user_id,item_id,behavior_type,user_geohash,item_category,time",
        "98047837,232431562,1,,4245,2014-12-06 02",
        "98047837,232431562,4,96nn52n,4245,2014-12-06 02",
        "98047837,232431562,2,,4245,2014-12-12 00",
        "98047837,232431562,3,,4245,2014-12-11 23",
    )
    events, report = events_of(path, "tianchi")
    assert [(event["kind"], event["timestamp"]) for event in events] == [
        ("click", utc(2014, 12, 5, 18)),
        ("purchase", utc(2014, 12, 5, 18)),
        ("favourite", utc(2014, 12, 11, 16)),
        ("cart", utc(2014, 12, 11, 15)),
    ]
    assert {event["category_id"] for event in events} == {4245}
    assert report.resolution == "hour"
    assert report.days == ["2014-12-06", "2014-12-11", "2014-12-12"]


@pytest.mark.parametrize(
    "time", ["2014-12-06", "2014-12-06 24", "2014-12-6 02", "+2014-12-06 02", "2014-12-06T02", ""]
)
def test_tianchi_time_malformed(tmp_path: Path, time: str) -> None:
    header = "user_id,item_id,behavior_type,user_geohash,item_category,time"
    path = write(tmp_path / "log.csv", header, "1,2,1,,3,2014-12-06 02", f"1,2,1,,3,{time}")
    events, report = events_of(path, "tianchi", max_rejected_share=0.5)
    assert len(events) == 1
    assert [rejected.lines for rejected in report.rejected.values()] == [[3]]


def test_tmall(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type",
        "328862,323294,833,2882,2661,0829,0",
        "328862,844400,1271,2882,,829,3",
        "328862,575153,1271,2882,2661,1111,2",
        "328862,996875,1271,2882,2661,0511,1",
    )
    events, report = events_of(path, "tmall")
    assert [(event["kind"], event["timestamp"], event["brand_id"]) for event in events] == [
        ("click", utc(2014, 8, 28, 16), 2661),
        ("favourite", utc(2014, 8, 28, 16), None),
        ("purchase", utc(2014, 11, 10, 16), 2661),
        ("cart", utc(2014, 5, 10, 16), 2661),
    ]
    assert {(event["seller_id"], event["user_id"]) for event in events} == {(2882, 328862)}
    assert report.resolution == "day"
    assert report.days == ["2014-05-11", "2014-08-29", "2014-11-11"]


def test_rees46(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session",
        "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d7",
        "2019-10-01 00:00:05 UTC,cart,44600062,2103807459595387724,a.b,,,541312140,",
        "2019-10-01 00:00:06 UTC,remove_from_cart,44600062,2103807459595387724,a.b,,1,541312140,",
        "2019-10-01 00:00:07 UTC,remove_from_cart,44600062,2103807459595387724,a.b,,1,541312140,",
        "2019-11-29 23:59:59 UTC,purchase,44600062,,,samsung,0.00,541312141,s",
    )
    events, report = events_of(path, "rees46")
    keys = ("user_id", "kind", "timestamp", "category_id", "brand_id", "price", "session_id")
    category = 2103807459595387724
    assert [tuple(event[key] for key in keys) for event in events] == [
        (541312140, "click", utc(2019, 10, 1), category, "shiseido", 35.79, "72d7"),
        (541312140, "cart", utc(2019, 10, 1, 0, 0, 5), category, None, None, None),
        (541312141, "purchase", utc(2019, 11, 29, 23, 59, 59), None, "samsung", 0.0, "s"),
    ]
    assert report.dropped == {"kind 'remove_from_cart' is left out": 2}
    assert (report.rows_read, report.rows_accepted, report.rows_rejected) == (5, 3, 0)
    assert "kind 'remove_from_cart' is left out: 2" in report.text()


def test_retailrocket(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "timestamp,visitorid,event,itemid,transactionid",
        "1433221332117,257597,view,355908,",
        "1433224214164,992329,addtocart,248676,",
        "1433222276276,599528,transaction,356475,4000",
    )
    events, report = events_of(path, "retailrocket")
    assert [tuple(event.values()) for event in events] == [
        (257597, 355908, "click", utc(2015, 6, 2, 5, 2, 12, 117_000)),
        (992329, 248676, "cart", utc(2015, 6, 2, 5, 50, 14, 164_000)),
        (599528, 356475, "purchase", utc(2015, 6, 2, 5, 17, 56, 276_000)),
    ]
    assert report.resolution == "ms"
    assert "category_id" not in events[0]


# Any mixture of good and malformed lines, however it is stored and cut into blocks.


@pytest.mark.parametrize("raw", [TAOBAO, TMALL, REES46], ids=lambda raw: raw.format)
@given(data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_line_is_told_apart(tmp_path: Path, raw: Raw, data: st.DataObject) -> None:
    drawn = data.draw(lines(raw))
    texts = [",".join(raw.names)] * raw.header + [line.text for line in drawn]
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    stored = (end.join(texts) + data.draw(st.sampled_from(["", end]))).encode()
    path = tmp_path / "log.csv"
    path.write_bytes(gzip.compress(stored, 1) if data.draw(st.booleans()) else stored)
    block_bytes = data.draw(st.sampled_from([1, 50, 1 << 20]))

    events, report = events_of(path, raw.format, max_rejected_share=1, block_bytes=block_bytes)

    assert events == [line.event for line in drawn if line.event]
    expected: dict[str, list[int]] = {}
    for number, line in enumerate(drawn, start=1 + raw.header):
        if line.reason:
            expected.setdefault(line.reason, []).append(number)
    assert {reason: r.count for reason, r in report.rejected.items()} == {
        reason: len(numbers) for reason, numbers in expected.items()
    }
    assert {reason: r.lines for reason, r in report.rejected.items()} == {
        reason: numbers[:5] for reason, numbers in expected.items()
    }
    assert report.rows_read == sum(1 for line in drawn if line.text)
    assert report.rows_read == (report.rows_accepted + report.rows_rejected + report.rows_dropped)
    assert report.rows_by_kind == Counter(line.event["kind"] for line in drawn if line.event)
    assert report.users == len({line.event["user_id"] for line in drawn if line.event})


@pytest.mark.parametrize("raw", [TAOBAO, TMALL, REES46], ids=lambda raw: raw.format)
@given(data=st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=[*HealthCheck])
def test_every_fault_has_its_reason(tmp_path: Path, raw: Raw, data: st.DataObject) -> None:
    row = data.draw(raw.rows.filter(lambda row: row[1] is not None))
    faulty = [spoil(raw.names, row, fault) for fault in raw.spoilt]
    header = [",".join(raw.names)] * raw.header
    path = write(tmp_path / "log.csv", *header, *(line.text for line in faulty), ",".join(row[0]))
    events, report = events_of(path, raw.format, max_rejected_share=1)
    assert events == [row[1]]
    assert {reason: r.count for reason, r in report.rejected.items()} == Counter(
        line.reason for line in faulty
    )


FRAGMENTS = [*(f.encode() for f in ("1", ",", "\n", "\r", "\r\n", "pv", '"', "#", " ", "\0", "é"))]
FRAGMENTS += [b"\xff", b"\xef\xbb\xbf", b"\xe2", b"1,2,3,pv,1511544070\n", b"1,2,,buy,1511544070"]


@given(
    fragments=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=60),
    block_bytes=st.integers(1, 64),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
def test_any_bytes_give_the_same_for_any_block_size(
    tmp_path: Path, fragments: list[bytes], block_bytes: int
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"".join(fragments))

    def outcome(block_bytes: int) -> tuple[Any, ...]:
        report = ImportReport()
        config = EventsConfig(max_rejected_share=1)
        tables = read("taobao", path, config, "UTC", report, block_bytes=block_bytes)
        try:
            events = [event for table in tables for event in table.to_pylist()]
        except DataError as error:
            return str(error), report.rows_read
        counted = report.rows_accepted + report.rows_rejected
        return events, report.rows_read, counted, report.rejected

    whole = outcome(1 << 20)
    assert outcome(block_bytes) == whole
    assert len(whole) == 2 or whole[1] == whole[2]


# What a user does wrong, and what the input does.


def test_a_malformed_line_is_shown_with_its_number_and_text(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", *[GOOD] * 300, "1,x,3,pv,1511544070", *[GOOD] * 100)
    _, report = events_of(path)
    assert "item_id is not an integer: 1 (line 301: '1,x,3,pv,1511544070')" in report.text()


def test_too_many_malformed_lines_fail_and_publish_nothing(tmp_path: Path) -> None:
    bad = ["1,2,3,look,1511544070"] * 3
    path = write(tmp_path / "log.csv", *[GOOD] * 97, *bad)
    message = (
        r"log\.csv: 3 of 100 rows are malformed, more than events\.max_rejected_share = 0\.02 "
        r"allows: unknown event kind: 3 \(lines 98, 99, 100: '1,2,3,look,1511544070'\)"
    )
    config = Config(events=EventsConfig(max_rejected_share=0.02))
    with pytest.raises(DataError, match=message):
        import_log("taobao", path, tmp_path / "log", config)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    report = import_log(
        "taobao", path, tmp_path / "log", Config(events=EventsConfig(max_rejected_share=0.03))
    )
    assert (report.rows_accepted, report.rows_rejected) == (97, 3)
    assert open_event_log(tmp_path / "log").manifest["rejected"] == {
        "unknown event kind": {"count": 3, "lines": [98, 99, 100]}
    }


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"input not found: .*none\.csv"):
        events_of(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a directory"):
        events_of(tmp_path)


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"log\.csv.*(is empty|no event is left of 0 rows)"):
        events_of(path)


def test_header_alone_has_no_event(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "timestamp,visitorid,event,itemid,transactionid")
    with pytest.raises(DataError, match="no event is left of 0 rows"):
        events_of(path, "retailrocket")


@pytest.mark.parametrize("keep", [5, 40, -1])
def test_truncated_gzip_is_named(tmp_path: Path, keep: int) -> None:
    whole = gzip.compress("".join(f"{GOOD}\n" for _ in range(5000)).encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"log\.csv\.gz is a truncated gzip file"):
        import_log("taobao", path, tmp_path / "log", Config())
    assert not (tmp_path / "log").exists()


def test_truncated_second_member(tmp_path: Path) -> None:
    member = gzip.compress(f"{GOOD}\n".encode() * 100)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(member + member[:-9])
    with pytest.raises(DataError, match="truncated gzip"):
        events_of(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(os.urandom(1000).hex().encode()))
    whole[len(whole) // 2] ^= 0xFF
    path = tmp_path / "log.csv.gz"
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"log\.csv\.gz is a damaged gzip file"):
        events_of(path)


def test_gzip_of_two_members_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(gzip.compress(GOOD[:9].encode()) + gzip.compress(GOOD[9:].encode()))
    events, _ = events_of(path)
    assert [event["item_id"] for event in events] == [2268318]


@pytest.mark.parametrize(
    ("first_bytes", "message"),
    [
        (b"PK\x03\x04", "is a zip archive; unpack it first"),
        (b"PAR1", "is a Parquet file; its format is parquet"),
    ],
)
def test_other_files_are_known(tmp_path: Path, first_bytes: bytes, message: str) -> None:
    (tmp_path / "log.csv").write_bytes(first_bytes + b"rest\n")
    with pytest.raises(DataError, match=message):
        events_of(tmp_path / "log.csv")


def test_endless_line_is_no_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "log.csv"
    path.write_bytes(b"0" * 5000)
    with pytest.raises(DataError, match=r"log\.csv has a line of over 1,000 bytes"):
        events_of(path, block_bytes=100)


def test_wrong_header_names_the_column(tmp_path: Path) -> None:
    header = "user_id,item_id,behaviour_type,user_geohash,item_category,time"
    path = write(tmp_path / "log.csv", header, "1,2,1,,3,2014-12-06 02")
    message = r"lacks \['behavior_type'\], but has \['behaviour_type'\]"
    with pytest.raises(DataError, match=message):
        events_of(path, "tianchi")


def test_column_twice_in_the_header(tmp_path: Path) -> None:
    header = "timestamp,visitorid,event,itemid,itemid"
    path = write(tmp_path / "log.csv", header, "1433221332117,257597,view,355908,1")
    with pytest.raises(DataError, match=r"names \['itemid'\] more than once"):
        events_of(path, "retailrocket")


def test_header_gives_the_order_and_extra_columns_are_noted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "\ufeffitemid,event,shop,visitorid,timestamp",
        "355908,view,x,257597,1433221332117",
    )
    events, report = events_of(path, "retailrocket")
    assert (events[0]["user_id"], events[0]["item_id"]) == (257597, 355908)
    assert report.notes == ["columns that are left out: shop"]


def test_rows_outside_the_bounds_are_dropped_and_counted(tmp_path: Path) -> None:
    times = [1512143999, 1512144000, 1512316799, 1512316800]
    path = write(tmp_path / "log.csv", *(f"1,2,3,pv,{time}" for time in times))
    events, report = events_of(path, start="2017-12-02", end="2017-12-04", max_rejected_share=0)
    assert [event["timestamp"] for event in events] == [
        utc(2017, 12, 1, 16),
        utc(2017, 12, 3, 15, 59, 59),
    ]
    assert report.dropped == {"outside [events.start, events.end)": 2}
    assert report.rows_rejected == 0


def test_bounds_without_any_event(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", GOOD)
    with pytest.raises(DataError, match=r"no event is left of 1 rows; 1 outside \[events\.start"):
        events_of(path, start="2018-01-01")
    with pytest.raises(ConfigError, match=r"events\.start = '2018-01-01' is not before '2017"):
        events_of(path, start="2018-01-01", end="2017-01-01")


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_required_time_order(tmp_path: Path, block_bytes: int) -> None:
    rows = [f"1,2,3,pv,{time}" for time in (1511544070, 1511544070, 1511544071)]
    ordered = write(tmp_path / "ordered.csv", *rows)
    events, _ = events_of(ordered, require_time_order=True, block_bytes=block_bytes)
    assert len(events) == 3
    bad = ["1,x,3,pv,1511544000", "malformed"]
    path = write(tmp_path / "log.csv", *bad, *rows, *bad, "1,2,3,pv,1511544000")
    with pytest.raises(DataError, match="line 8 is earlier than line 5"):
        events_of(path, require_time_order=True, block_bytes=block_bytes, max_rejected_share=1)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"unknown format 'csv'; there are {FORMATS[0]}"):
        events_of(tmp_path, "csv", "UTC")


def test_timezone_of_a_log() -> None:
    own = PromotionConfig(
        name="a",
        kind="b",
        warmup_start="2024-01-01",
        pre_promotion_start="2024-01-02",
        promotion_start="2024-01-03",
        promotion_end="2024-01-04",
    )
    berlin = CalendarConfig(timezone="Europe/Berlin", promotions=(own,))
    assert log_timezone("rees46", berlin) == "UTC"
    assert log_timezone("tmall", berlin) == "Asia/Shanghai"
    assert log_timezone("parquet", berlin) == "Europe/Berlin"
    assert log_timezone("parquet", CalendarConfig(built_in="black_friday")) == "America/New_York"


def test_progress_reaches_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(f"{GOOD}\n".encode() * 1000))
    seen: list[int] = []
    list(read("taobao", path, EventsConfig(), "UTC", on_bytes=seen.append, block_bytes=1000))
    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size


def test_output_that_exists(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", GOOD)
    import_log("taobao", path, tmp_path / "log", Config())
    with pytest.raises(OutputError, match="--overwrite"):
        import_log("taobao", path, tmp_path / "log", Config())
    import_log("taobao", path, tmp_path / "log", Config(), overwrite=True)


@pytest.mark.skipif(not TAOBAO_LOG.exists(), reason=f"the public Taobao log is not at {TAOBAO_LOG}")
def test_published_numbers_of_the_taobao_log(tmp_path: Path) -> None:
    events = EventsConfig(start="2017-11-25", end="2017-12-04")
    report = import_log("taobao", TAOBAO_LOG, tmp_path / "log", Config(events=events))
    assert (report.rows_read, report.rows_rejected) == (104_224, 0)
    assert report.dropped == {"outside [events.start, events.end)": 44}
    assert report.days == [f"2017-11-{day}" for day in range(25, 31)] + [
        f"2017-12-0{day}" for day in range(1, 4)
    ]
    whole = ImportReport()
    users: set[int] = set()
    categories: set[int] = set()
    for table in read("taobao", TAOBAO_LOG, EventsConfig(), "Asia/Shanghai", whole):
        users.update(table["user_id"].to_pylist())
        categories.update(table["category_id"].to_pylist())
    assert whole.rows_by_kind == {
        "click": 93_706,
        "favourite": 2_703,
        "cart": 5_688,
        "purchase": 2_127,
    }
    assert (whole.users, len(users), whole.items, len(categories)) == (1_024, 1_024, 66_794, 3_182)
