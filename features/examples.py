"""The feature engine: one pure function from a user partition to labelled examples.

`build_examples` sees all events of some users, and `History` for what is summed over all users. It
reads no clock, no file and no setting but its arguments, so that every runner gives equal rows.

Point in time: a user's own events count strictly before the click (an event of the click's own
timestamp is never seen); items and categories count in complete hours before the click's hour;
promotions count once they are over.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from cmdcm.core.config import FeaturesConfig, LabelsConfig
from cmdcm.datasets.calendar import DAY_MS, HOUR_MS, PromotionCalendar
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.features.columns import SEQUENCES
from cmdcm.features.history import (
    History,
    factorize,
    kind_code,
    locate,
    positions,
    user_promotions,
)
from cmdcm.features.labels import PairEvents, label
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.windows import (
    Int64s,
    group_starts,
    last_before,
    running_totals,
    window_counts,
)


@dataclass(frozen=True)
class EngineSettings:
    """All that determines the examples of a partition besides its events and the history.

    Attributes:
        spec: The columns to make.
        calendar: The promotions.
        features: Windows, lengths and kinds.
        labels: Intent event and attribution time.
        observed_until_ms: End of what the log shows (exclusive). Clicks whose labels are not all
            known by then make no example.
    """

    spec: FeatureSpec
    calendar: PromotionCalendar
    features: FeaturesConfig
    labels: LabelsConfig
    observed_until_ms: int


@dataclass(frozen=True)
class _Own:
    """The users' own events by an integer key (of a user, or of a user and an item), sorted."""

    group_of_event: Int64s
    times: Int64s
    kinds: Int64s
    groups: Int64s
    starts: Int64s

    @classmethod
    def of(cls, keys: Int64s, times: Int64s, kinds: Int64s) -> "_Own":
        """Groups events, which are in the order of (user, time); no group for a key of -1."""
        order = np.argsort(keys, kind="stable")
        groups = np.cumsum(np.diff(keys[order], prepend=keys[order[0]]) != 0)
        group_of_event = np.empty(len(groups), np.int64)
        group_of_event[order] = np.where(keys[order] < 0, -1, groups)
        starts = group_starts(groups, int(groups[-1]) + 1)
        return cls(group_of_event, times[order], kinds[order], groups, starts)

    def of_kind(self, kind: str) -> PairEvents:
        """The events of one kind in the same groups."""
        chosen = self.kinds == kind_code(kind)
        starts = group_starts(self.groups[chosen], len(self.starts) - 1)
        return PairEvents(self.times[chosen], starts)


def anchor_clicks(events: pl.DataFrame, settings: EngineSettings) -> pl.Series:
    """Returns the mask of the clicks that make an example."""
    times = events["timestamp"].dt.epoch("ms").to_numpy()
    number, phase = locate(times, settings.calendar)
    bounds = settings.calendar.bounds()
    mature = (
        bounds[number, 2] <= settings.observed_until_ms if len(bounds) else np.zeros(len(times))
    )
    return (events["kind"] == "click") & pl.Series((phase == 0) & (mature > 0), dtype=pl.Boolean)


def build_examples(
    events: pl.DataFrame, history: History, settings: EngineSettings, rows: int = 50_000
) -> Iterator[pa.Table]:
    """Makes the examples of one user partition.

    Args:
        events: All events of some users, in any order: the contract's columns, kind as
            `KIND_ENUM`.
        history: Totals over all users.
        settings: What to make.
        rows: The most rows of a table that is returned.

    Yields:
        Tables with the spec's columns, in the order of (local day, user, click time, item). No
        table spans two days.
    """
    anchors = anchor_clicks(events, settings)
    users = events.select("user_id").filter(anchors).unique()
    events = events.join(users, on="user_id", how="semi")
    if events.is_empty():
        return
    # All columns that an example shows order the events, so that the input's order never matters.
    shown = [f.name for f in settings.spec.of("item") if f.name in events.columns]
    events = events.select(
        "user_id",
        "kind",
        "timestamp",
        pl.col("timestamp").dt.epoch("ms").alias("time"),
        pl.col("kind").to_physical().cast(pl.Int64).alias("code"),
        *shown,
    ).sort("user_id", "time", *shown)
    partition = _Partition(events, history, settings)
    clicks = np.flatnonzero(anchor_clicks(events, settings).to_numpy())
    days = settings.calendar.local_days(partition.times[clicks])
    for day in np.unique(days):
        of_day = clicks[days == day]
        for first in range(0, len(of_day), rows):
            yield partition.examples(of_day[first : first + rows])


class _Partition:
    """The grouped events of a partition, ready to answer for any of its clicks."""

    def __init__(self, events: pl.DataFrame, history: History, settings: EngineSettings):
        self.history = history
        self.settings = settings
        self.times = events["time"].to_numpy()
        kinds = events["code"].to_numpy()
        self.promotion, _ = locate(self.times, settings.calendar)
        self.columns = {
            f.name: events[f.name].to_arrow().cast(arrow_type(f))
            for f in settings.spec.inputs
            if f.name in events.columns
        }
        # Aligned lists hold no nulls: an unknown category takes the default.
        self.listed = {
            entity: self.columns[f"{entity}_id"].fill_null(settings.spec[f"{entity}_id"].default)
            for entity in ("item", "category")
            if f"{entity}_id" in self.columns
        }
        keys = [name for name in ("user", "item", "category") if f"{name}_id" in events.columns]
        ids, codes = {}, {}
        for key in keys:
            ids[key], codes[key] = factorize(events[f"{key}_id"])
        self.own = {"user": _Own.of(codes["user"], self.times, kinds)}
        for key in keys[1:]:
            pairs = np.where(codes[key] < 0, -1, codes["user"] * len(ids[key]) + codes[key])
            self.own[f"user_{key}"] = _Own.of(pairs, self.times, kinds)
        counted = {kind_code(k): n for n, k in enumerate(settings.features.count_kinds)}
        column = np.array([counted.get(code, -1) for code in range(len(EVENT_KINDS))])
        self.prefix = {
            name: running_totals(column[own.kinds], len(counted)) for name, own in self.own.items()
        }
        self.purchases = self.own["user_item"].of_kind("purchase")
        self.intents = self.own["user_item"].of_kind(settings.labels.intent)
        user = self.own["user"]
        self.rows_of_kind = {k: np.flatnonzero(kinds == kind_code(k)) for k in SEQUENCES.values()}
        self.events_of_kind = {k: user.of_kind(k) for k in SEQUENCES.values()}
        # No click sees more of its user's promotions than those before the last window of all.
        opened = settings.calendar.bounds()[self.promotion.max(), 0]
        seen = events.filter(pl.col("time") < opened)
        self.promotions = {
            "user": user_promotions(seen, settings.calendar, settings.labels.intent),
            **history.promotions,
        }

        def groups(key: str, known: pl.Series) -> Int64s:
            return np.append(positions(ids[key], known), -1)[codes[key]]

        self.hour_groups = {key: groups(key, t.ids) for key, t in history.hours.items()}
        self.promotion_groups = {key: groups(key, t.ids) for key, t in self.promotions.items()}

    def examples(self, clicks: Int64s) -> pa.Table:
        """Makes the examples of the clicks at these rows of the events."""
        columns: dict[str, pa.Array] = {
            **self._identifiers(clicks),
            **self._own_counts(clicks),
            **self._shared_counts(clicks),
            **self._sequences(clicks),
            **self._context(clicks),
            **self._labels(clicks),
        }
        spec = self.settings.spec
        return pa.table(
            [columns[f.name] for f in spec.features],
            schema=pa.schema([(f.name, arrow_type(f)) for f in spec.features]),
        )

    def _since(self, clicks: Int64s) -> Int64s:
        """[clicks, windows]: the inclusive start of each look-back window, in ms."""
        until = self.times[clicks]
        hours = np.array(self.settings.features.windows_hours, np.int64) * HOUR_MS
        opened = self.settings.calendar.bounds()[self.promotion[clicks], 0]
        return np.column_stack([until[:, None] - hours, opened])

    def _identifiers(self, clicks: Int64s) -> dict[str, pa.Array]:
        return {name: _take(column, clicks) for name, column in self.columns.items()}

    def _own_counts(self, clicks: Int64s) -> dict[str, pa.Array]:
        until, since = self.times[clicks], self._since(clicks)
        columns = {}
        for name, own in self.own.items():
            groups = own.group_of_event[clicks]
            counts = window_counts(own.times, self.prefix[name], own.starts, groups, until, since)
            columns[f"{name}_counts"] = _vectors(counts)
        user = self.own["user"]
        everything = np.full((len(clicks), 1), np.iinfo(np.int64).min)
        one_each = np.arange(len(self.times) + 1, dtype=np.int32)[:, None]
        groups = user.group_of_event[clicks]
        history = window_counts(user.times, one_each, user.starts, groups, until, everything)
        return columns | {"user_history": pa.array(history[:, 0].astype(np.int64))}

    def _shared_counts(self, clicks: Int64s) -> dict[str, pa.Array]:
        hour = self.times[clicks] // HOUR_MS
        back = np.array(self.settings.features.windows_hours, np.int64)
        opened = self.settings.calendar.bounds()[self.promotion[clicks], 0]
        since = np.column_stack([hour[:, None] - back, -(-opened // HOUR_MS)])
        columns = {}
        for entity, timeline in self.history.hours.items():
            groups = self.hour_groups[entity][clicks]
            columns[f"{entity}_counts"] = _vectors(timeline.counts(groups, hour, since))
        first = np.zeros((len(clicks), 1), np.int64)
        for entity, timeline in self.promotions.items():
            groups = self.promotion_groups[entity][clicks]
            counts = timeline.counts(groups, self.promotion[clicks], first)
            columns[f"{entity}_promotions"] = _vectors(counts)
        return columns

    def _sequences(self, clicks: Int64s) -> dict[str, pa.Array]:
        spec, user = self.settings.spec, self.own["user"]
        columns: dict[str, pa.Array] = {}
        for name, kind in SEQUENCES.items():
            own = self.events_of_kind[kind]
            offsets, found, ages = last_before(
                own.times,
                own.starts,
                user.group_of_event[clicks],
                self.times[clicks],
                spec[f"{name}_ages"].length,
            )
            values = {f"{name}_ages": pa.array(ages // 1000)}
            rows = self.rows_of_kind[kind][found]
            for entity in ("item", "category"):
                if f"{name}_{entity}_ids" in spec:
                    values[f"{name}_{entity}_ids"] = _take(self.listed[entity], rows)
            for column, flat in values.items():
                columns[column] = pa.ListArray.from_arrays(pa.array(offsets), flat)
        return columns

    def _context(self, clicks: Int64s) -> dict[str, pa.Array]:
        calendar = self.settings.calendar
        times, number = self.times[clicks], self.promotion[clicks]
        hours = (calendar.bounds()[number, 1] - times) / HOUR_MS
        kinds = pa.array([p.kind for p in calendar.promotions])
        names = pa.array([p.name for p in calendar.promotions])
        return {
            "hours_to_promotion": pa.array(hours.astype(np.float32)),
            "hour_of_day": pa.array(calendar.local_hours(times)),
            "weekday": pa.array(calendar.weekdays(times)),
            "promotion_kind": kinds.take(pa.array(number)),
            "promotion": names.take(pa.array(number)),
        }

    def _labels(self, clicks: Int64s) -> dict[str, pa.Array]:
        settings, pairs = self.settings, self.own["user_item"]
        labels = label(
            self.times[clicks],
            settings.calendar.bounds()[self.promotion[clicks]],
            pairs.group_of_event[clicks],
            self.purchases,
            self.intents,
            round(settings.labels.attribution_days * DAY_MS),
        )
        columns = {name: pa.array(value.astype(np.int64)) for name, value in vars(labels).items()}
        observed = np.full(len(clicks), settings.observed_until_ms, np.int64)
        return columns | {
            "click_time_ms": pa.array(self.times[clicks]),
            "observation_time_ms": pa.array(observed),
        }


def arrow_type(feature: Feature) -> pa.DataType:
    """Returns the Arrow type of a feature's column."""
    scalar = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.string()}[feature.dtype]
    if feature.shape == "scalar":
        return scalar
    if feature.shape == "vector":
        return pa.list_(pa.int32() if feature.dtype == "int64" else scalar, feature.length)
    return pa.list_(scalar)


def _take(column: pa.Array, rows: Int64s) -> pa.Array:
    # For numbers NumPy, whose large allocations cost a fraction of those of Arrow's pool.
    if pa.types.is_integer(column.type) and not column.null_count:
        return pa.array(column.to_numpy()[rows])
    return column.take(pa.array(rows))


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
