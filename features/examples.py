"""The feature engine: one pure function from a user partition to labelled examples.

`build_examples` sees all events of some users, and `History` for what is summed over all users. It
reads no clock, no file and no setting but its arguments, so that every runner gives equal rows.

Point in time: a user's own events count strictly before the click (an event of the click's own
timestamp is never seen); items and categories count in complete hours before the click's hour;
promotions count once they are over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from cmdcm.core.config import FeaturesConfig, LabelsConfig
from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.features.attribution import Attribution
from cmdcm.features.columns import SEQUENCES
from cmdcm.features.custom import Clicks, custom_features
from cmdcm.features.hashing import hash_ids
from cmdcm.features.history import (
    History,
    factorize,
    kind_code,
    locate,
    promotions_before,
    user_promotions,
)
from cmdcm.features.labels import PairEvents, Periods, label
from cmdcm.features.spec import FeatureSpec, arrow_type
from cmdcm.features.timeline import Timeline
from cmdcm.features.windows import (
    Int64s,
    group_starts,
    last_before,
    running_totals,
    window_counts,
)

SHARED = tuple(
    f"{entity}_{what}" for entity in ("item", "category") for what in ("counts", "promotions")
)
"""The columns that are sums over all users."""


@dataclass(frozen=True)
class EngineSettings:
    """All that determines the examples of a partition besides its events and the history.

    Attributes:
        spec: The columns to make.
        calendar: The promotions.
        features: Windows, lengths and kinds.
        labels: Which events count for a click, and how long.
        observed_until_ms: End of what the log shows (exclusive). Clicks whose labels are not all
            known by then make no example.
        first_promotion: Number of the first promotion whose clicks make examples.
        anchor_kind: Kind of the events that make examples. With `impression` the same columns are
            made for items that are to be ranked, at the time of their request: no feature sees
            an impression, unless `features.count_kinds` or a feature of one's own counts them.
        as_observed: Whether clicks whose labels are not all known make examples too, with the
            labels as the events before `observed_until_ms` show them: for streams.
    """

    spec: FeatureSpec
    calendar: PromotionCalendar
    features: FeaturesConfig
    labels: LabelsConfig
    observed_until_ms: int
    first_promotion: int = 0
    anchor_kind: Literal["click", "impression"] = "click"
    as_observed: bool = False


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
    """Returns the mask of the events that make an example, unless they are repeated clicks."""
    times = events["timestamp"].dt.epoch("ms").to_numpy()
    number, phase = locate(times, settings.calendar)
    bounds = settings.calendar.bounds()
    mature = np.zeros(len(times), np.bool_)
    if len(bounds):
        *_, known = Periods.of(settings.labels).known(times, bounds[number])
        until = times if settings.as_observed else known
        mature = until <= settings.observed_until_ms
    return (events["kind"] == settings.anchor_kind) & pl.Series(
        (phase == 0) & mature & (number >= settings.first_promotion), dtype=pl.Boolean
    )


def build_examples(
    events: pl.DataFrame, history: History | None, settings: EngineSettings, rows: int = 50_000
) -> Iterator[pa.Table]:
    """Makes the examples of one user partition.

    Args:
        events: All events of some users, in any order: the contract's columns, kind as
            `KIND_ENUM`.
        history: Totals over all users. None: the events have the columns that are looked up in
            it (`SHARED`), filled in for the clicks that become examples.
        settings: What to make.
        rows: The most rows of a table that is returned.

    Yields:
        Tables with the spec's columns, in the order of (local day, user, click time, item). No
        table spans two promotions.
    """
    if settings.as_observed:
        # Of known labels no later event decides anything, of others it would.
        events = events.filter(pl.col("timestamp").dt.epoch("ms") < settings.observed_until_ms)
    anchors = anchor_clicks(events, settings)
    users = events.select("user_id").filter(anchors).unique()
    events = events.join(users, on="user_id", how="semi")
    if events.is_empty():
        return
    # All columns that an example shows order the events, so that the input's order never matters.
    shown = [
        f.name
        for f in settings.spec.of("item")
        if f.name in events.columns and f.name not in SHARED
    ]
    if settings.labels.values and "quantity" in events.columns:
        shown.append("quantity")
    events = events.select(
        "user_id",
        "kind",
        "timestamp",
        pl.col("timestamp").dt.epoch("ms").alias("time"),
        pl.col("kind").to_physical().cast(pl.Int64).alias("code"),
        *shown,
        *(name for name in SHARED if name in events.columns),
    ).sort("user_id", "time", *shown)
    partition = _Partition(events, history, settings)
    clicks = np.flatnonzero(anchor_clicks(events, settings).to_numpy())
    clicks = clicks[~partition.attribution.repeated[clicks]]
    days = settings.calendar.local_days(partition.times[clicks])
    clicks = clicks[np.argsort(days, kind="stable")]
    promotions = partition.promotion[clicks]  # ascending, since the days are
    for number in np.unique(promotions):
        of_promotion = clicks[promotions == number]
        for first in range(0, len(of_promotion), rows):
            yield partition.examples(of_promotion[first : first + rows])


class _Partition:
    """The grouped events of a partition, ready to answer for any of its clicks."""

    def __init__(self, events: pl.DataFrame, history: History | None, settings: EngineSettings):
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
        self.attribution = Attribution.of(
            events, codes["user"], self.own["user_item"].group_of_event, settings.labels
        )
        user = self.own["user"]
        self.rows_of_kind = {k: np.flatnonzero(kinds == kind_code(k)) for k in SEQUENCES.values()}
        self.events_of_kind = {k: user.of_kind(k) for k in SEQUENCES.values()}
        # No click sees more of its user's promotions than those before the last window of all.
        opened = settings.calendar.bounds()[self.promotion.max(), 0]
        seen = events.filter(pl.col("time") < opened)
        self.user_promotions = user_promotions(seen, settings.calendar, settings.labels.intent)
        self.user_groups = self.user_promotions.find(hash_ids(ids["user"]))[codes["user"]]
        if history is None:
            self.shared = {n: events[n] for n in SHARED if n in events.columns}
            return

        def groups(key: str, timeline: Timeline) -> Int64s:
            return np.append(timeline.find(hash_ids(ids[key])), -1)[codes[key]]

        self.hour_groups = {key: groups(key, t) for key, t in history.hours.items()}
        self.promotion_groups = {key: groups(key, t) for key, t in history.promotions.items()}

    def examples(self, clicks: Int64s) -> pa.Table:
        """Makes the examples of the clicks at these rows of the events."""
        columns: dict[str, pa.Array] = {
            **self._identifiers(clicks),
            **self._own_counts(clicks),
            **self._shared_counts(clicks),
            **self._sequences(clicks),
            **self._context(clicks),
            **self._custom(clicks),
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
        is_own = np.where(user.kinds == kind_code("impression"), -1, 0)
        groups = user.group_of_event[clicks]
        history = window_counts(
            user.times, running_totals(is_own, 1), user.starts, groups, until, everything
        )
        return columns | {"user_history": pa.array(history[:, 0].astype(np.int64))}

    def _shared_counts(self, clicks: Int64s) -> dict[str, pa.Array]:
        number = self.promotion[clicks]
        earlier = promotions_before(self.user_promotions, self.user_groups[clicks], number)
        columns = {"user_promotions": _vectors(earlier)}
        if self.history is None:
            for name, values in self.shared.items():
                columns[name] = (
                    values.gather(clicks).to_arrow().cast(arrow_type(self.settings.spec[name]))
                )
            return columns
        hours = self.times[clicks] // HOUR_MS
        opened = self.settings.calendar.bounds()[number, 0]
        for entity, of_event in self.hour_groups.items():
            counts = self.history.counts(
                entity, of_event[clicks], hours, self.settings.features.windows_hours, opened
            )
            columns[f"{entity}_counts"] = _vectors(counts)
        for entity, of_event in self.promotion_groups.items():
            counts = promotions_before(self.history.promotions[entity], of_event[clicks], number)
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

    def _custom(self, clicks: Int64s) -> dict[str, pa.Array]:
        bounds = self.settings.calendar.bounds()[self.promotion[clicks]]
        known = Clicks(
            clicks, self.times[clicks], bounds[:, 0], bounds[:, 1], self.columns, self.own
        )
        return {
            custom.feature.name: custom.column(known)
            for custom in custom_features(self.settings.features.modules)
        }

    def _labels(self, clicks: Int64s) -> dict[str, pa.Array]:
        settings, attribution, times = self.settings, self.attribution, self.times[clicks]
        bounds = settings.calendar.bounds()[self.promotion[clicks]]
        periods = Periods.of(settings.labels)
        labels, optional = label(
            times,
            bounds,
            attribution.groups[clicks],
            attribution.next_click_ms[clicks],
            attribution.purchases,
            attribution.intents,
            periods,
            attribution.micros,
            attribution.kept,
        )
        *_, known = periods.known(times, bounds)
        columns = {
            **vars(labels),
            **optional,
            "click_time_ms": times,
            "observation_time_ms": np.minimum(settings.observed_until_ms, known),
        }
        return {
            name: pa.array(value.astype(np.int64) if value.dtype == np.bool_ else value)
            for name, value in columns.items()
        }


def _take(column: pa.Array, rows: Int64s) -> pa.Array:
    # For numbers NumPy, whose large allocations cost a fraction of those of Arrow's pool.
    if pa.types.is_integer(column.type) and not column.null_count:
        return pa.array(column.to_numpy()[rows])
    return column.take(pa.array(rows))


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
