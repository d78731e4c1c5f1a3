"""Calibration of a model's logits: monotone maps and shifts by slice, part of the served graph.

A trained model's probabilities drift from one promotion to the next. After training, each logit z
of a conditional probability (P(D), P(A | D), P(L | D = 0): `RankingModel.calibrated_heads`) becomes

    map(z) + sum over slices of shift[slice]

where the map is a line, `a z + b` (Platt, 1999), or piecewise linear through the knots of an
isotonic regression, with slope 1 beyond the outer knots. Both increase, so within a slice no map
changes the order of a head's clicks. Since the behaviour graph multiplies conditional probabilities
only after that, p_direct + p_delayed = p_conversion <= 1 holds as before.

Here is what is stored and what the graph does; `cmdcm.model.calibrate` fits it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow as tf

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_json, write_json
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.inputs import Tensors
from cmdcm.model.rows import feature_ids

CALIBRATION_FILE = "calibration.json"
"""Name of the calibration beside a model's weights and in an export."""

HOURS = "hours_to_promotion"
HOUR_EDGES = (6.0, 24.0, 72.0, 168.0)
"""Edges of the ranges of the hours to the promotion; those of the evaluation's slices."""


@dataclass(frozen=True)
class Map:
    """A piecewise linear function of a logit.

    Attributes:
        inputs: Knots, increasing.
        outputs: Values at the knots, increasing.
        slope: Slope below the first and above the last knot.
    """

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    slope: float = 1.0

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.outputs) or not self.inputs:
            raise DataError("a calibration map needs as many outputs as inputs, at least one")
        if self.slope <= 0 or any(
            a >= b for values in (self.inputs, self.outputs) for a, b in pairwise(values)
        ):
            raise DataError("a calibration map should increase")

    def __call__(self, logits: tf.Tensor) -> tf.Tensor:
        """Maps logits, [N].

        Example:
            >>> Map((0.0, 2.0), (1.0, 2.0))(tf.constant([-3.0, 1.0, 4.0])).numpy()
            array([-2. ,  1.5,  4. ], dtype=float32)
        """
        inner = [
            (y1 - y0) / (x1 - x0)
            for (x0, x1), (y0, y1) in zip(
                pairwise(self.inputs), pairwise(self.outputs), strict=True
            )
        ]
        slopes = tf.constant([self.slope, *inner, self.slope], tf.float32)
        knots, values = (tf.constant(v, tf.float32) for v in (self.inputs, self.outputs))
        segment = tf.searchsorted(knots, logits, side="right")
        anchor = tf.maximum(segment - 1, 0)
        return tf.gather(values, anchor) + tf.gather(slopes, segment) * (
            logits - tf.gather(knots, anchor)
        )


IDENTITY = Map((0.0,), (0.0,))


@dataclass(frozen=True)
class HeadCalibration:
    """The calibration of one logit.

    Attributes:
        map: Its map.
        shifts: Slice column -> shift of the logit for each of the column's slices.
        rows: Rows that it was fitted on.
        positives: Positive labels among them.
        before: Predicted over observed positives there before the calibration.
        after: The same after it.
    """

    map: Map
    shifts: Mapping[str, tuple[float, ...]]
    rows: int
    positives: int
    before: float
    after: float


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model.

    Attributes:
        method: `none`, `platt` or `isotonic`.
        days: First and last day of the rows that it was fitted on.
        heads: Name of the logit -> its calibration; other logits stay as they are.
    """

    method: str
    days: tuple[str, str]
    heads: Mapping[str, HeadCalibration]

    def __call__(self, logits: Tensors, features: Tensors, spec: FeatureSpec) -> Tensors:
        """Returns the calibrated logits, of the heads that have a calibration.

        Args:
            logits: Name -> [N].
            features: The slice columns, raw, [N] or [1] each.
            spec: The columns' features.
        """
        calibrated = {}
        for name, head in self.heads.items():
            value = head.map(logits[name])
            for column, shifts in head.shifts.items():
                index = slice_index(column, features[column], spec)
                value += tf.gather(tf.constant(shifts, tf.float32), index)
            calibrated[name] = value
        return calibrated

    def save(self, path: Path) -> None:
        """Writes the calibration as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Reads a calibration that `save` wrote.

        Raises:
            DataError: The file is missing or holds something else.
        """
        value: Any = read_json(path, "calibration")
        try:
            heads = {name: _head(head) for name, head in value["heads"].items()}
            first, last = value["days"]
            return cls(str(value["method"]), (str(first), str(last)), heads)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} does not hold a calibration: {error!r}") from error


def slice_count(column: str, spec: FeatureSpec) -> int:
    """Returns the number of slices of a column.

    Raises:
        ConfigError: The column cannot be sliced by.
    """
    if column == HOURS:
        return len(HOUR_EDGES) + 1
    if column not in {feature.name for feature in spec.inputs}:
        raise ConfigError(f"calibration.slices: {column!r} is no input of the model")
    feature = spec[column]
    if feature.shape != "scalar" or feature.encoding not in ("vocabulary", "identity"):
        raise ConfigError(
            f"calibration.slices: {column!r} is no scalar with a vocabulary or an index; use "
            f"{HOURS!r}, 'promotion_kind', 'weekday' or another such input"
        )
    return len(feature.vocabulary) + 1 if feature.encoding == "vocabulary" else feature.buckets


def slice_index(column: str, values: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the slice of each raw value, [N]."""
    if column == HOURS:
        return tf.searchsorted(tf.constant(HOUR_EDGES), tf.cast(values, tf.float32), side="right")
    return feature_ids(spec[column], values)


def _head(value: Mapping[str, Any]) -> HeadCalibration:
    shifts = {column: tuple(map(float, of)) for column, of in value["shifts"].items()}
    line = value["map"]
    return HeadCalibration(
        Map(tuple(map(float, line["inputs"])), tuple(map(float, line["outputs"])), line["slope"]),
        shifts,
        int(value["rows"]),
        int(value["positives"]),
        float(value["before"]),
        float(value["after"]),
    )
