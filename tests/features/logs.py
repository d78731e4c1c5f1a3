"""Small event logs for the feature tests: hypothesis strategies, and the engine run on them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

from cmdcm.core.config import FeaturesConfig, LabelsConfig
from cmdcm.datasets.calendar import PromotionCalendar, promotion
from cmdcm.datasets.events import KIND_ENUM, event_schema
from cmdcm.features.cleaning import drop_bots
from cmdcm.features.columns import example_spec
from cmdcm.features.examples import EngineSettings, build_examples
from cmdcm.features.history import History, partition_totals
from cmdcm.features.spec import FeatureSpec
from cmdcm.tests.features.reference import DAY, HOUR, KIND_ORDER, Event, Row, reference_examples

FEATURES = FeaturesConfig(windows_hours=(1, 24), clicked_length=3, intent_length=2)
LABELS_CONFIG = LabelsConfig(attribution_days=3, micro=True)
PROMOTIONS = (
    ("a", "618", ("2024-03-01", "2024-03-02", "2024-03-05", "2024-03-06")),
    ("b", "own", ("2024-03-06", "2024-03-06", "2024-03-11T12:30", "2024-03-12T00:00")),
    ("c", "double11", ("2024-03-14", "2024-03-15", "2024-03-17", "2024-03-19")),
    ("d", "own", ("2024-04-05", "2024-04-06", "2024-04-09", "2024-04-10")),
)
"""Name, kind, and the starts of warm-up, window and promotion days, and their end."""
OPTIONAL_COLUMNS = ("category_id", "seller_id", "brand_id", "price", "quantity")
EVERY_COLUMN = ("user_id", "item_id", "kind", "timestamp", *OPTIONAL_COLUMNS)
ZONES = ("UTC", "Asia/Shanghai", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe")


def calendar_in(zone: str) -> PromotionCalendar:
    """Four promotions in 2024: two of them adjoin, one starts at half past, one lasts two days.

    The second one's window spans the change to summer time of America/St_Johns, the last one's
    that of Australia/Lord_Howe, which is by half an hour.
    """
    promotions = [promotion(name, kind, zone, boundaries) for name, kind, boundaries in PROMOTIONS]
    return PromotionCalendar(zone, tuple(promotions))


@dataclass(frozen=True)
class Log:
    """A log with all that determines its examples."""

    events: list[Event]
    columns: tuple[str, ...] = ("user_id", "item_id", "kind", "timestamp", "category_id")
    string_ids: tuple[str, ...] = ()
    calendar: PromotionCalendar = field(default_factory=lambda: calendar_in("Asia/Shanghai"))
    features: FeaturesConfig = FEATURES
    labels: LabelsConfig = LABELS_CONFIG
    observed_until_ms: int = 1_800_000_000_000

    @property
    def schema(self) -> pa.Schema:
        """The log's Arrow schema."""
        return event_schema(self.columns, self.string_ids)

    @property
    def spec(self) -> FeatureSpec:
        """The columns of its examples."""
        return example_spec(self.features, self.schema, self.calendar, self.labels)

    @property
    def settings(self) -> EngineSettings:
        """The engine's settings."""
        return EngineSettings(
            self.spec, self.calendar, self.features, self.labels, self.observed_until_ms
        )

    def table(self, events: Sequence[Event] | None = None) -> pa.Table:
        """Returns events, by default all, as the contract's table."""
        some = self.events if events is None else events
        rows = [{**e, "timestamp": e["time"]} for e in some]
        columns = {name: [row[name] for row in rows] for name in self.schema.names}
        kinds = pa.array(columns["kind"], pa.string()).dictionary_encode()
        arrays = [
            kinds.cast(f.type) if f.name == "kind" else pa.array(columns[f.name], f.type)
            for f in self.schema
        ]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def frame(self, events: Sequence[Event] | None = None) -> pl.DataFrame:
        """Returns events, by default all, as the engine takes them."""
        frame = pl.DataFrame(pl.from_arrow(self.table(events)))
        return frame.with_columns(pl.col("kind").cast(pl.String).cast(KIND_ENUM))

    def reference(self) -> list[Row]:
        """Returns the rows that the reference makes."""
        return reference_examples(
            self.events,
            self.columns,
            self.calendar,
            self.features,
            self.labels,
            self.observed_until_ms,
            missing_category="" if "category_id" in self.string_ids else 0,
        )

    def examples(self, partitions: int = 1, rows: int = 50_000) -> list[pa.Table]:
        """Returns the engine's tables; user u is in partition `crc(u) % partitions`."""
        parts = [
            self.frame([e for e in self.events if _number(e["user_id"]) % partitions == n])
            for n in range(partitions)
        ]
        parts = [drop_bots(part, self.features.max_events_per_hour) for part in parts]
        kinds, intent = self.features.count_kinds, self.labels.intent
        totals = [partition_totals(part, self.calendar, kinds, intent) for part in parts]
        history = History.of(totals, kinds)
        return [
            table for part in parts for table in build_examples(part, history, self.settings, rows)
        ]

    def rows(self) -> list[Row]:
        """Returns the engine's rows of the whole log as one partition."""
        return [row for table in self.examples() for row in table.to_pylist()]


def _number(value: int | str) -> int:
    return value if isinstance(value, int) else sum(value.encode())


def event(user: Any, item: Any, kind: str, time: int, category: Any = None) -> Event:
    """Returns an event of the default columns."""
    return {
        "user_id": user,
        "item_id": item,
        "kind": kind,
        "time": time,
        "category_id": category,
    }


def instants(calendar: PromotionCalendar) -> list[int]:
    """Instants about the promotions: on boundaries and beside them, and hours where events meet."""
    bounds = sorted({int(b) for b in calendar.bounds().reshape(-1)})
    beside = (0, 1, -1, HOUR, -HOUR, DAY, -DAY, HOUR // 2)
    dense = [bounds[n] + DAY + quarter * HOUR // 4 for n in (0, 5) for quarter in range(16)]
    return [*dense, *dense, *(bound + offset for bound in bounds for offset in beside)]


def identifiers(column: str, string_ids: Sequence[str], most: int) -> list[Any]:
    """A few identifiers of the column's type, the first ones more often."""
    values: list[Any] = (
        ["b", "a", "ä", "", "zz"] if column in string_ids else [7, -3, 11, 10**15, 0]
    )
    return [values[0], *values[:most]]


def fields(
    calendar: PromotionCalendar,
    columns: Sequence[str],
    string_ids: Sequence[str],
    users: int,
    items: int,
) -> dict[str, list[Any]]:
    """The values that each field of a random event is drawn from."""
    values: dict[str, list[Any]] = {
        "user_id": identifiers("user_id", string_ids, users),
        "item_id": identifiers("item_id", string_ids, items),
        "kind": ["click", "click", "click", "cart", "purchase", *KIND_ORDER],
        "time": instants(calendar),
    }
    for column in columns:
        if column in ("category_id", "seller_id", "brand_id"):
            values[column] = [None, *identifiers(column, string_ids, 3)]
        elif column == "price":
            values[column] = [None, 0.0, 0.1, 19.99, 1e6]
        elif column == "quantity":
            values[column] = [None, 1, 3, 100]
    return values


@st.composite
def settings(draw: st.DrawFn) -> Log:
    """Logs without events, of all kinds: columns, types of ids, zones, settings."""
    calendar = calendar_in(draw(st.sampled_from(ZONES)))
    optional = draw(st.sets(st.sampled_from(OPTIONAL_COLUMNS)))
    columns = ("user_id", "item_id", "kind", "timestamp", *sorted(optional))
    shared = ["item", *(k for k in ("seller", "category") if f"{k}_id" in optional)]
    ids = [name for name in columns if name.endswith("_id")]
    ends = [p.promotion_end_ms for p in calendar.promotions]
    refunds = draw(st.sampled_from(["ignore", "cancel"]))
    return Log(
        events=[],
        columns=columns,
        string_ids=tuple(sorted(draw(st.sets(st.sampled_from(ids))))),
        calendar=calendar,
        features=FeaturesConfig(
            windows_hours=draw(st.sampled_from([(1, 24), (1,), (2, 3, 72, 720)])),
            count_kinds=draw(
                st.sampled_from(
                    [
                        ("click", "favourite", "cart", "purchase"),
                        ("purchase", "impression"),
                        ("click",),
                    ]
                )
            ),
            clicked_length=draw(st.sampled_from([1, 3, 50])),
            intent_length=draw(st.sampled_from([1, 2])),
            max_events_per_hour=draw(st.sampled_from([0, 0, 2, 5])),
        ),
        labels=LabelsConfig(
            intent=draw(st.sampled_from(["cart", "favourite"])),
            attribute_to=draw(st.sampled_from(shared)),
            credit=draw(st.sampled_from(["every", "last"])),
            attribution_days=draw(st.sampled_from([1 / 24, 1, 30])),
            delayed_days=draw(st.sampled_from([0, 0, 2.5, 30])),
            refunds=refunds,
            refund_days=draw(st.sampled_from([1 / 24, 2, 30])),
            values=draw(st.booleans()),
            micro=draw(st.booleans()),
            refunded=refunds == "ignore" and draw(st.booleans()),
            dedup_seconds=draw(st.sampled_from([0, 0, 1, 3600])),
        ),
        observed_until_ms=draw(
            st.sampled_from([ends[-1] + 30 * DAY, ends[-1], ends[2] + DAY, ends[2], ends[2] - 1])
        ),
    )


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Small logs with few users and items, ties in time and exact duplicates."""
    log = draw(settings())
    users, items = draw(st.sampled_from([(1, 1), (2, 3), (4, 5)]))
    values = fields(log.calendar, log.columns, log.string_ids, users, items)
    # A log of hour or day resolution has all its times on full hours or days.
    resolution = draw(st.sampled_from([1, 1000, HOUR, DAY]))
    size = draw(st.sampled_from([0, 8, 16]))
    drawn = draw(
        st.lists(
            st.tuples(*(st.sampled_from(some) for some in values.values())),
            min_size=size,
            max_size=size + 12,
        )
    )
    events = [dict(zip(values, event, strict=True)) for event in drawn]
    events += [dict(event) for event in events[: draw(st.integers(0, 3))]]
    for event in events:
        event["time"] = event["time"] // resolution * resolution
    return replace(log, events=events)


def dense_log(seed: int, events: int = 250, **changes: Any) -> Log:
    """A larger random log of the default settings, for what small ones rarely hold.

    Args:
        seed: Of the random numbers; also chooses the resolution and the number of items.
        events: How many events.
        **changes: Other fields of the log.
    """
    log = Log([], **changes)
    values = fields(log.calendar, log.columns, log.string_ids, users=5, items=1 + 2 * (seed % 3))
    resolution = (1, HOUR, DAY, 1000)[seed % 4]
    rng = random.Random(seed)
    drawn = [{name: rng.choice(some) for name, some in values.items()} for _ in range(events)]
    for event in drawn:
        event["time"] = event["time"] // resolution * resolution
    return replace(log, events=drawn)


def dense_log_of_every_attribution(seed: int) -> Log:
    """A larger random log of all columns; the seed chooses the settings of the labels."""
    labels = LabelsConfig(
        attribute_to=("item", "seller", "category")[seed % 3],
        credit=("every", "last")[seed % 2],
        attribution_days=(1.5, 30)[seed // 2 % 2],
        delayed_days=(0, 0, 2.5)[seed // 3 % 3],
        refunds=("ignore", "cancel")[seed // 4 % 2],
        refund_days=(1, 30)[seed // 8 % 2],
        values=True,
        micro=seed % 5 < 3,
        refunded=seed // 4 % 2 == 0 and seed % 3 < 2,
        dedup_seconds=(0, 7200)[seed // 12 % 2],
    )
    ids = ("user_id", "seller_id") if seed % 5 == 0 else ()
    features = FEATURES.model_copy(update={"max_events_per_hour": (0, 12)[seed % 4 == 3]})
    return dense_log(seed, columns=EVERY_COLUMN, string_ids=ids, labels=labels, features=features)
