"""The as-of date: no event dated at or after it is in a snapshot, nor changes anything of it."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest, verify_manifest
from cmdcm.datasets.calendar import calendar_of, to_ms
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.spans import DAY
from cmdcm.jobs.retrain import snapshot
from cmdcm.jobs.retrain.snapshot import (
    share_files,
    snapshot_digest,
    source_fingerprint,
    take_snapshot,
)
from cmdcm.jobs.retrain.window import Window, check_nothing_later
from cmdcm.tests.jobs.retrain.worlds import AS_OF, PROMOTION, config_of, events, kinds_of

START = datetime(2024, 6, 7, 12, tzinfo=UTC)
KINDS = ("click", "cart", "purchase")
AS_OF_MS = to_ms(AS_OF, "Asia/Shanghai")
EVENT = st.tuples(
    st.sampled_from(["u", "v", "w"]),
    st.sampled_from(["i", "j"]),
    st.sampled_from(KINDS),
    st.integers(0, 5 * 24 * 60),
).map(lambda e: (*e[:3], (START + timedelta(minutes=e[3])).replace(tzinfo=None).isoformat()))


def early(event: tuple[str, str, str, str]) -> bool:
    return datetime.fromisoformat(event[3]).replace(tzinfo=UTC).timestamp() * 1000 < AS_OF_MS


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Window:
    return Window.of(config_of(tmp_path_factory.mktemp("window")), PROMOTION, AS_OF)


def taken(window: Window, source: Path, target: Path) -> str:
    take_snapshot(source, target, window.calendar, window.as_of_ms, window.last_day)
    return snapshot_digest(target)


@settings(max_examples=40)
@given(
    past=st.lists(EVENT.filter(early), min_size=1, max_size=12),
    future=st.lists(EVENT.filter(lambda e: not early(e)), max_size=12),
    data=st.data(),
)
def test_no_event_dated_after_the_as_of_instant_is_used(window, past, future, data):
    """Neither what the later events are nor where they stand changes one byte."""
    both = data.draw(st.permutations(past + future))
    cut = data.draw(st.integers(1, len(both)))
    group = data.draw(st.integers(1, 5))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        pq.write_table(events(past), base / "past.parquet")
        (base / "all").mkdir()
        for number, part in enumerate((both[:cut], both[cut:])):
            if part:
                file = base / "all" / f"{number}.parquet"
                pq.write_table(events(part), file, row_group_size=group)
        alone = taken(window, base / "past.parquet", base / "one")
        together = taken(window, base / "all", base / "two")
        assert alone == together
        frame = kinds_of(base / "two")
        assert frame["timestamp"].dt.epoch("ms").to_numpy().max() < AS_OF_MS
        assert sorted(frame["kind"].cast(pl.String)) == sorted(e[2] for e in past)
        verify_manifest(base / "two")


def test_directories_of_later_days_and_later_row_groups_are_never_opened(
    window, tmp_path, monkeypatch
):
    days = ["2024-06-08", "2024-06-09", "2024-06-10", "2024-06-11"]
    for day in days:
        (tmp_path / day).mkdir()
        rows = [("u", "i", "click", f"{day}T01:00")]
        pq.write_table(events(rows), tmp_path / day / "part.parquet")
    opened: list[str] = []
    real = snapshot.open_parquet

    def spy(file):
        opened.append(Path(file).parent.name)
        return real(file)

    monkeypatch.setattr(snapshot, "open_parquet", spy)
    monkeypatch.setattr("cmdcm.datasets.log.open_parquet", spy)
    taken(window, tmp_path / DAY, tmp_path / "snapshot")
    assert set(opened) == {"2024-06-08", "2024-06-09"}

    rows = [("u", "i", "click", "2024-06-08T01:00"), ("u", "i", "cart", "2024-06-20T01:00")]
    pq.write_table(events(rows), tmp_path / "one.parquet", row_group_size=1)
    read: list[tuple[int, ...]] = []

    def nothing(self, part, columns):
        read.append(part.row_groups)
        return iter(())

    monkeypatch.setattr("cmdcm.datasets.log.EventLog.read", nothing)
    monkeypatch.setattr(snapshot, "open_event_log", lambda path, **_: _opened(tmp_path))
    with pytest.raises(DataError, match="no event before"):
        taken(window, tmp_path / "one.parquet", tmp_path / "none")
    assert read == [(0,)]


def _opened(folder: Path):
    from cmdcm.datasets.log import EventLog, _common_schema

    files = (folder / "one.parquet",)
    return EventLog(files[0], _common_schema(files), files, {"resolution": "ms"})


def test_a_snapshot_is_a_log_of_its_own_with_a_file_for_each_local_month(window, tmp_path):
    rows = [
        ("u", "i", "click", "2024-05-31T15:59"),  # before midnight in Shanghai
        ("u", "i", "cart", "2024-05-31T16:00"),
        ("u", "j", "click", "2024-06-08T16:00"),
    ]
    pq.write_table(events(rows), tmp_path / "log.parquet")
    taken(window, tmp_path / "log.parquet", tmp_path / "snapshot")
    log = open_event_log(tmp_path / "snapshot")
    assert [file.name for file in log.files] == ["2024-05.parquet", "2024-06.parquet"]
    manifest = read_manifest(tmp_path / "snapshot", "events")
    assert manifest["rows"] == 3 and manifest["rows_by_kind"] == {"click": 2, "cart": 1}


def test_a_log_that_reaches_past_the_instant_is_refused():
    with pytest.raises(DataError, match="after the as-of"):
        check_nothing_later({"last_timestamp": "2024-06-09T16:00:00.000+00:00"}, AS_OF_MS, "x")
    check_nothing_later({"last_timestamp": "2024-06-09T15:59:59.999+00:00"}, AS_OF_MS, "x")


def test_the_fingerprint_sees_changed_files_and_not_later_days(window, tmp_path):
    for day in ("2024-06-08", "2024-06-11"):
        (tmp_path / day).mkdir()
        pq.write_table(events([("u", "i", "click", f"{day}T01:00")]), tmp_path / day / "p.parquet")
    first = source_fingerprint(tmp_path / DAY, window.last_day)
    assert first["files"] == 1
    pq.write_table(
        events([("u", "i", "cart", "2024-06-11T01:00")]), tmp_path / "2024-06-11/q.parquet"
    )
    assert source_fingerprint(tmp_path / DAY, window.last_day) == first
    pq.write_table(
        events([("u", "i", "cart", "2024-06-08T01:00")]), tmp_path / "2024-06-08/q.parquet"
    )
    assert source_fingerprint(tmp_path / DAY, window.last_day) != first


def test_the_window_knows_which_labels_are_known(tmp_path):
    config = config_of(tmp_path)
    before = Window.of(config, PROMOTION, "2024-03-20")
    assert (before.mature, before.pending) == ((), ())
    after = Window.of(config, PROMOTION, "2024-03-21")
    assert after.mature == ("a-2024",) and after.last_day == "2024-03-20"
    labels = config.labels.model_copy(update={"refunds": "cancel", "refund_days": 10.0})
    refunds = config.model_copy(update={"labels": labels})
    assert Window.of(refunds, PROMOTION, "2024-03-30").pending == ("a-2024",)
    assert Window.of(refunds, PROMOTION, "2024-03-31").mature == ("a-2024",)
    assert calendar_of(after.settings(config).calendar) == after.calendar
    assert after.settings(config).labels.observed_until == "2024-03-20T16:00:00+00:00"
    assert after.settings(config).split.by == "promotion"


def test_months_that_have_not_changed_take_up_their_space_once(window, tmp_path):
    past = [("u", "i", "click", "2024-05-02T00:00"), ("u", "i", "click", "2024-06-07T00:00")]
    for number, rows in enumerate((past, [*past, ("v", "j", "cart", "2024-06-08T00:00")])):
        pq.write_table(events(rows), tmp_path / f"{number}.parquet")
        taken(window, tmp_path / f"{number}.parquet", tmp_path / f"night-{number}")
    first, second = tmp_path / "night-0", tmp_path / "night-1"
    digest = snapshot_digest(second)
    assert share_files(second, first) == 1
    verify_manifest(second)
    assert snapshot_digest(second) == digest
    links = {file.name: file.stat().st_nlink for file in second.glob("*.parquet")}
    assert links == {"2024-05.parquet": 2, "2024-06.parquet": 1}
    assert share_files(second, first) == 1  # again, as a killed step does
    assert not list(second.glob(".*"))


def test_a_damaged_earlier_month_is_not_shared(window, tmp_path):
    pq.write_table(events([("u", "i", "click", "2024-05-02T00:00")]), tmp_path / "log.parquet")
    for night in ("one", "two"):
        taken(window, tmp_path / "log.parquet", tmp_path / night)
    (tmp_path / "one" / "2024-05.parquet").write_bytes(b"damaged")
    assert share_files(tmp_path / "two", tmp_path / "one") == 0
    verify_manifest(tmp_path / "two")
