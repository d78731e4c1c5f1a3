"""Attribution: the handbook's worked examples, and what holds for any log."""

import json
import re
import tomllib
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings

from cmdcm.core.config import Config, LabelsConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import calendar_of
from cmdcm.features.plan import observed_until
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.features.logs import (
    EVERY_COLUMN,
    Log,
    dense_log,
    dense_log_of_every_attribution,
    logs,
)
from cmdcm.tests.features.reference import DAY, Event, Row

NAMES = {"item": "item_id", "seller": "seller_id", "category": "category_id", "user": "user_id"}
AMOUNTS = ["direct_quantity", "delayed_quantity", "direct_value", "delayed_value"]
NUMBERS = {"price": float, "quantity": int, **dict.fromkeys(NAMES, int)}


@dataclass
class Example:
    """A worked example: settings, events, and the expected labels in the order of time and item."""

    section: str
    config: Config
    events: list[dict[str, str]]
    labels: list[dict[str, str]] = field(default_factory=list)

    @property
    def log(self) -> Log:
        """The events as a log."""
        zone = ZoneInfo(self.config.calendar.timezone)
        events = []
        for row in self.events:
            one: Event = {"user_id": 1, "kind": row["kind"], "time": instant(row["time"], zone)}
            for name, number in NUMBERS.items():
                if name in row:
                    one[NAMES.get(name, name)] = number(row[name]) if row[name] else None
            events.append(one)
        calendar = calendar_of(self.config.calendar)
        return Log(
            events,
            columns=(*(name for name in events[0] if name != "time"), "timestamp"),
            calendar=calendar,
            features=self.config.features,
            labels=self.config.labels,
            observed_until_ms=observed_until(0, self.config.labels.observed_until, calendar),
        )

    def expected(self) -> list[Row]:
        """The table of labels, typed as the columns are."""
        zone = ZoneInfo(self.config.calendar.timezone)
        rows: list[Row] = []
        for row in self.labels:
            typed: Row = {}
            for name, text in row.items():
                column = "click_time_ms" if name == "time" else NAMES.get(name, name)
                if name == "time" or name.endswith("_known_ms"):
                    typed[column] = instant(text, zone)
                elif name.endswith("_value"):
                    typed[column] = float(np.float32(text))
                else:
                    typed[column] = duration(text) if " " in text else int(text)
            rows.append(typed)
        return rows


def instant(text: str, zone: ZoneInfo) -> int:
    """UTC ms of a local time such as `2 Nov 10:00` or `2 Nov 10:00:30` of 2025."""
    form = "%Y %d %b %H:%M:%S" if text.count(":") == 2 else "%Y %d %b %H:%M"
    return int(datetime.strptime(f"2025 {text}", form).replace(tzinfo=zone).timestamp() * 1000)


def duration(text: str) -> int:
    """Milliseconds of a time such as `8 d 14 h 10 min`."""
    words = text.split()
    unit = {"d": DAY, "h": DAY // 24, "min": DAY // 1440}
    return sum(int(n) * unit[of] for n, of in zip(words[::2], words[1::2], strict=True))


def merged(*tables: dict[str, Any]) -> dict[str, Any]:
    """TOML tables put together, section by section."""
    result: dict[str, Any] = {}
    for table in tables:
        for section, values in table.items():
            result[section] = {**result.get(section, {}), **values}
    return result


def worked_examples(page: str) -> list[Example]:
    """Reads the page: a block of TOML, then perhaps a table of events, then a table of labels."""
    found: list[Example] = []
    common: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    section = ""
    events: list[Event] = []
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith("## "):
            section, events = line.removeprefix("## "), []
        if line == "```toml":
            block = tomllib.loads("\n".join(iter(lambda: next(lines), "```")))
            common, chosen = (block, {}) if "calendar" in block else (common, block)
        if line.startswith("| ") and "time" in cells(line):
            names = cells(line)
            next(lines)
            rows = [
                dict(zip(names, cells(row), strict=True))
                for row in iter(lambda: next(lines, ""), "")
            ]
            if "kind" in names:
                events = rows
            else:
                config = Config.model_validate(merged(common, chosen))
                found.append(Example(section, config, events, rows))
    return found


def cells(line: str) -> list[str]:
    """The cells of a table's row, without back-ticks."""
    return [cell.strip(" `") for cell in line.strip().removesuffix("|").split("|")[1:]]


PAGE = (ROOT / "docs" / "attribution.md").read_text(encoding="utf-8")
EXAMPLES = worked_examples(PAGE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_worked_examples_of_the_handbook(number):
    example = EXAMPLES[number]
    expected = example.expected()
    assert expected
    for rows in (example.log.rows(), example.log.reference()):
        rows.sort(key=lambda row: (row["user_id"], row["click_time_ms"], row["item_id"]))
        assert [{name: row[name] for name in expected[0]} for row in rows] == expected


def test_every_setting_has_a_worked_example():
    page_settings = {
        name for line in PAGE.splitlines() for name in re.findall(r"`labels.(\w+)`", line)
    }
    assert {*LabelsConfig.model_fields} - {"observed_until"} == page_settings
    default = LabelsConfig()
    for name in page_settings - {"intent"}:
        assert any(getattr(e.config.labels, name) != getattr(default, name) for e in EXAMPLES), name
    for line in PAGE.splitlines():
        documented = re.match(r"\| `labels.(\w+)` \| (\S+) \|", line)
        if documented:
            value = getattr(default, documented[1])
            assert documented[2].strip("`") == json.dumps(value).removesuffix(".0"), documented[1]


@pytest.mark.parametrize("key", ["seller", "category"])
def test_a_key_that_the_log_lacks_is_an_error(key):
    log = Log([], columns=("kind",), labels=LabelsConfig(attribute_to=key))
    with pytest.raises(ConfigError, match=rf"labels\.attribute_to = '{key}'.*'{key}_id'.*item_id"):
        _ = log.spec


def test_clicks_wait_for_refunds():
    (example,) = (e for e in EXAMPLES if e.section == "Refunds")
    known = instant("19 Nov 00:00", ZoneInfo("Asia/Shanghai"))
    assert replace(example.log, observed_until_ms=known - 1).rows() == []
    assert len(replace(example.log, observed_until_ms=known).rows()) == 4


def test_with_a_limit_clicks_become_examples_one_by_one():
    (example,) = (e for e in EXAMPLES if e.section == "How long events count")
    known = instant("11 Nov 09:00", ZoneInfo("Asia/Shanghai"))
    items = [row["item_id"] for row in replace(example.log, observed_until_ms=known).rows()]
    assert items == [1, 2, 3]


def test_quantities_and_values_are_there_where_they_are_asked_for():
    columns = ("user_id", "item_id", "kind", "timestamp")
    for extra, values, expected in (
        (("price", "quantity"), False, []),
        ((), True, ["direct_quantity", "delayed_quantity"]),
        (("price",), True, AMOUNTS),
    ):
        log = Log([], columns=(*columns, *extra), labels=LabelsConfig(values=values))
        assert [n for n in log.spec.names() if n in AMOUNTS] == expected
        assert {log.spec[n].side for n in expected} <= {"label"}


@pytest.mark.parametrize("seed", range(24))
def test_dense_logs_equal_the_reference_under_every_attribution(seed):
    log = dense_log_of_every_attribution(seed)
    expected = [{name: row[name] for name in log.spec.names()} for row in log.reference()]
    assert expected
    assert log.rows() == expected


def test_every_attribution_makes_labels_and_leaves_some_out():
    """Neither setting is without effect, nor leaves nothing to compare."""
    plain = LabelsConfig(attribution_days=1.5, values=True)
    for name, value in (
        ("attribute_to", "seller"),
        ("attribute_to", "category"),
        ("credit", "last"),
        ("delayed_days", 2),
        ("refunds", "cancel"),
        ("dedup_seconds", 7200),
    ):
        changed = plain.model_copy(update={name: value})
        before, after = (
            [
                row
                for seed in range(4)
                for row in dense_log(seed, columns=EVERY_COLUMN, labels=labels).reference()
            ]
            for labels in (plain, changed)
        )
        for label in ("direct", "delayed", "direct_quantity", "delayed_value"):
            sums = [sum(row[label] for row in rows) for rows in (before, after)]
            assert sums[1] > 10, (name, label)
            if (name, label[:6]) != ("delayed_days", "direct"):
                assert sums[0] != sums[1], (name, label)


@settings(max_examples=40)
@given(logs())
def test_examples_of_an_old_promotion_stay_as_they_are_when_the_log_grows(log):
    """And there are no others of it, so that the labels were indeed known."""
    log = replace(log, features=log.features.model_copy(update={"max_events_per_hour": 0}))
    seen = [e for e in log.events if e["time"] < log.observed_until_ms]
    later = replace(log, observed_until_ms=log.observed_until_ms + 100 * DAY)
    last = "refunded_known_ms" if log.labels.refunded else "delayed_known_ms"
    grown = [r for r in later.rows() if r[last] <= log.observed_until_ms]
    assert replace(log, events=seen).rows() == grown


@pytest.mark.parametrize("seed", range(4))
def test_with_the_last_click_every_purchase_counts_once(seed):
    columns = ("user_id", "item_id", "kind", "timestamp", "category_id", "quantity", "price")
    labels = LabelsConfig(credit="last", values=True, attribute_to=("item", "category")[seed % 2])
    log = dense_log(seed, columns=columns, labels=labels)
    rows = log.rows()
    pieces = sum(row["direct_quantity"] + row["delayed_quantity"] for row in rows)
    value = sum(row["direct_value"] + row["delayed_value"] for row in rows)
    bought = [e for e in log.events if e["kind"] == "purchase"]
    assert 0 < pieces <= sum(1 if e["quantity"] is None else e["quantity"] for e in bought)
    assert 0 < value <= 1.001 * sum((e["price"] or 0) * (e["quantity"] or 1) for e in bought)
    assert sum(row["conversion"] for row in rows) <= len(bought)


def refunds_of(log: Log, **update: Any) -> dict[str, Row]:
    """Rows by what tells clicks apart, under other settings of the refunds."""
    labels = log.labels.model_copy(update=update)
    rows = replace(log, labels=labels).rows()
    names = [f.name for f in log.spec.inputs if f.shape == "scalar"]
    return {repr((row["click_time_ms"], [row[n] for n in names])): row for row in rows}


@settings(max_examples=40)
@given(logs())
def test_a_conversion_that_is_not_refunded_is_one_of_cancelled_purchases(log):
    told = refunds_of(log, refunds="ignore", refunded=True)
    cancelled = refunds_of(log, refunds="cancel", refunded=False)
    assert told.keys() == cancelled.keys()  # the same clicks, so known at the same time
    for key, row in told.items():
        assert row["refunded"] <= row["conversion"]
        assert row["conversion"] - row["refunded"] == cancelled[key]["conversion"]
        assert row["refunded_known_ms"] == cancelled[key]["delayed_known_ms"]


def test_optional_labels_are_made_and_some_clicks_left_out():
    labels = LabelsConfig(attribution_days=1.5, refund_days=2, micro=True, refunded=True)
    rows = [row for seed in range(6) for row in dense_log(seed, labels=labels).reference()]
    for name, of in (("micro", len(rows)), ("refunded", sum(r["conversion"] for r in rows))):
        assert 10 < sum(row[name] for row in rows) < of - 10, name


def test_refunded_purchases_that_refunds_cancel_are_an_error():
    with pytest.raises(ValueError, match="refunded needs refunds = 'ignore'"):
        LabelsConfig(refunded=True, refunds="cancel")
