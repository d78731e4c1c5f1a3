"""Features of one's own: functions of the clicks, in modules that `features.modules` names.

    from cmdcm.features.custom import Clicks, custom_feature

    @custom_feature(dtype="float32", side="user", encoding="log1p", description="...")
    def hours_since_cart(clicks: Clicks):
        last = clicks.last_ms("user", "cart")
        return np.where(last < 0, 10_000, (clicks.times_ms - last) / 3_600_000)

Encoder, parser, Keras inputs, serving signatures, schema and statistics follow from the feature; so
does the request, which has to carry it. What `Clicks` offers is strictly before each click, or is
of the click itself, so that no feature can see the future.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import HOUR_MS
from cmdcm.features.labels import PairEvents
from cmdcm.features.spec import Feature, arrow_type
from cmdcm.features.windows import Int64s, last_before, window_counts


class OwnEvents(Protocol):
    """A partition's events by user, or by user and item or category."""

    @property
    def group_of_event(self) -> Int64s:
        """[events], the event's group; -1 for none."""

    def of_kind(self, kind: str) -> PairEvents:
        """The events of one kind in the same groups."""


@dataclass(frozen=True)
class Clicks:
    """Clicks of some users, and what is known at each.

    Attributes:
        rows: [clicks], places of the clicks among the partition's events.
        times_ms: [clicks], UTC.
        window_start_ms: [clicks], start of the pre-promotion window.
        promotion_start_ms: [clicks], start of the coming promotion.
        columns: The partition's events, by column of the log.
        own: The partition's events, by `user`, `user_item` and, with categories, `user_category`.
    """

    rows: Int64s
    times_ms: Int64s
    window_start_ms: Int64s
    promotion_start_ms: Int64s
    columns: Mapping[str, pa.Array]
    own: Mapping[str, OwnEvents]

    def column(self, name: str) -> pa.Array:
        """Returns [clicks]: a column of the click events themselves, such as `price`.

        Raises:
            ConfigError: The log has no such column.
        """
        if name not in self.columns:
            raise ConfigError(f"the log has no column {name!r}; there are {sorted(self.columns)}")
        return self.columns[name].take(pa.array(self.rows))

    def count(self, key: str, kind: str, hours: float) -> npt.NDArray[np.int32]:
        """Returns [clicks]: events of a kind in `[t - hours, t)`.

        Args:
            key: Whose: of the `user`, of the `user_item`, or of the `user_category`.
            kind: Kind of event.
            hours: Length of the window.
        """
        events, groups = self._events(key, kind)
        since = (self.times_ms - round(hours * HOUR_MS))[:, None]
        one_each = np.arange(len(events.times) + 1, dtype=np.int32)[:, None]
        counts = window_counts(events.times, one_each, events.starts, groups, self.times_ms, since)
        return counts[:, 0]

    def last_ms(self, key: str, kind: str) -> Int64s:
        """Returns [clicks]: time of the last event of a kind before the click; -1 without one."""
        events, groups = self._events(key, kind)
        offsets, places, _ = last_before(events.times, events.starts, groups, self.times_ms, 1)
        result = np.full(len(self.rows), -1, np.int64)
        result[np.diff(offsets) > 0] = events.times[places]
        return result

    def _events(self, key: str, kind: str) -> tuple[PairEvents, Int64s]:
        if key not in self.own:
            raise ConfigError(f"there are no events by {key!r}; there are {sorted(self.own)}")
        return self.own[key].of_kind(kind), self.own[key].group_of_event[self.rows]


@dataclass(frozen=True)
class CustomFeature:
    """A feature and the function that computes it.

    Attributes:
        feature: What the spec has.
        compute: Returns the values of clicks: [clicks], [clicks, length] for a vector, or an Arrow
            list array for a sequence.
    """

    feature: Feature
    compute: Callable[[Clicks], Any]

    def column(self, clicks: Clicks) -> pa.Array:
        """Computes the feature's column.

        Raises:
            DataError: The function's values do not fit the feature.
        """
        wanted = arrow_type(self.feature)
        values = self.compute(clicks)
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values.reshape(-1))
            values = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        try:
            column = pa.array(values) if isinstance(values, np.ndarray) else values
            column = column.cast(wanted)
        except (pa.ArrowException, AttributeError) as error:
            raise DataError(
                f"feature {self.feature.name!r} should give values of {wanted}: {error}"
            ) from error
        if len(column) != len(clicks.rows):
            raise DataError(
                f"feature {self.feature.name!r} should give a value for each of "
                f"{len(clicks.rows)} clicks. Received: {len(column)}"
            )
        return column


def custom_feature(
    **attributes: Any,
) -> Callable[[Callable[[Clicks], Any]], CustomFeature]:
    """Makes a feature of a function; it has the function's name.

    Args:
        **attributes: Those of `spec.Feature` but the name.
    """

    def make(compute: Callable[[Clicks], Any]) -> CustomFeature:
        try:
            return CustomFeature(Feature(name=compute.__name__, **attributes), compute)
        except ValidationError as error:
            reasons = "; ".join(str(fault["msg"]) for fault in error.errors())
            raise ConfigError(f"feature {compute.__name__!r}: {reasons}") from error

    return make


def custom_features(modules: Sequence[str]) -> list[CustomFeature]:
    """Returns the features of the named modules, in the order in which they are defined.

    Raises:
        ConfigError: A module cannot be imported, or has no feature.
    """
    found: list[CustomFeature] = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"features.modules: cannot import {name!r}: {error}") from error
        features = [value for value in vars(module).values() if isinstance(value, CustomFeature)]
        if not features:
            raise ConfigError(
                f"features.modules: {name!r} has no feature; decorate one with @custom_feature"
            )
        found += features
    return found
