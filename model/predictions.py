"""The table of predictions that an evaluation reads: its columns, its checks, its slices.

One row is one click of the test split. Every frame has the columns `COLUMNS`:

    user_id                 int64 or string
    item_id                 key of any one type
    click_time_ms           int64, UTC
    day                     date of the click in the calendar's time zone
    promotion               name of the promotion whose window the click falls into
    conversion, delayed, direct, cart       labels, integers 0 or 1
    conversion_delay_ms     int64 from click to purchase, -1 without a conversion
    user_history            int, the user's events before the click

and, of p_conversion, p_delayed, p_direct, p_cart (probabilities) and cart_effect, those that the
model predicts. Of examples with the label `refunded` it has that column, and `effective`, a
conversion that is not refunded; it may then have p_refunded and p_effective.
`hours_to_promotion` (float, hours from the click to the promotion's start) is optional and adds
slices; so are `propensity`, `r1` and `r0` (probabilities among clicks without a direct purchase),
which together allow a causal summary; and, of a calibrated model, uncalibrated_p_conversion and so
on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.core.errors import DataError

HEADS = ("conversion", "delayed", "direct", "cart")
"""Heads in the order of the report; head H has the label column H and the prediction p_H."""

ALL_HEADS = (*HEADS, "refunded", "effective")
"""And those whose labels only some examples have."""

UNCALIBRATED = "uncalibrated_"
"""Prefix of a calibrated model's probabilities before its calibration."""

KEYS = ("user_id", "item_id", "click_time_ms")
COLUMNS = (*KEYS, "day", "promotion", *HEADS, "conversion_delay_ms", "user_history")
"""Columns that every frame of predictions must have."""

Mask = npt.NDArray[np.bool_]

_HISTORY = ((0, "0"), (1, "1-9"), (10, "10-49"), (50, "50+"))
_HOURS = ((0, "0-6"), (6, "6-24"), (24, "24-72"), (72, "72-168"), (168, "168+"))


def check_predictions(predictions: Mapping[str, pl.DataFrame]) -> None:
    """Checks the frames of all models; they must hold the same clicks in the same order.

    Raises:
        DataError: No model or no row, a missing column, a null, a value out of range, or frames
            that do not hold the same clicks.
    """
    if not predictions:
        raise DataError("there is no model to evaluate: predictions are empty")
    for name, frame in predictions.items():
        _check(name, frame)
    first, clicks = next(iter(predictions.items()))
    for name, frame in predictions.items():
        _check_same_clicks(first, clicks, name, frame)


def heads_of(frame: pl.DataFrame) -> list[str]:
    """Returns the heads whose labels a frame has."""
    return [head for head in ALL_HEADS if head in frame.columns]


def slice_masks(
    clicks: pl.DataFrame, min_rows: int
) -> tuple[dict[str, dict[str, Mask]], dict[str, list[dict[str, Any]]]]:
    """Returns dimension -> slice -> mask of its rows, and the slices that are too small."""
    kept: dict[str, dict[str, Mask]] = {}
    left_out: dict[str, list[dict[str, Any]]] = {}
    for dimension, values in _dimensions(clicks):
        kept[dimension], left_out[dimension] = {}, []
        for value, rows in values:
            count = int(rows.sum())
            if count >= min_rows:
                kept[dimension][value] = rows
            elif count:
                left_out[dimension].append({"slice": value, "rows": count})
    return kept, left_out


def _check(name: str, frame: pl.DataFrame) -> None:
    where = f"predictions of model {name!r}"
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise DataError(f"{where} lack the columns {missing}; they have {frame.columns}")
    heads = heads_of(frame)
    predicted = [f"p_{head}" for head in heads if f"p_{head}" in frame.columns]
    diagnostics = [column for column in ("propensity", "r1", "r0") if column in frame.columns]
    uncalibrated = [column for column in frame.columns if column.startswith(UNCALIBRATED)]
    optional = [c for c in ("cart_effect", "hours_to_promotion") if c in frame.columns]
    if not predicted:
        raise DataError(f"{where} predict nothing: expected one of {[f'p_{h}' for h in HEADS]}")
    if not len(frame):
        raise DataError(f"{where} have no rows: no test click to evaluate on")
    for column in (*COLUMNS, *heads, *predicted, *diagnostics, *uncalibrated, *optional):
        if frame[column].null_count():
            raise DataError(f"{where}: {frame[column].null_count()} nulls in column {column!r}")
    for head in heads:
        if not frame[head].dtype.is_integer() or not frame[head].is_between(0, 1).all():
            raise DataError(f"{where}: label {head!r} should be 0 or 1 in every row")
    for column in (*predicted, *diagnostics, *uncalibrated):
        # A sum of two float32 probabilities may pass 1 by a rounding.
        if not frame[column].dtype.is_float() or not frame[column].is_between(0, 1 + 1e-6).all():
            raise DataError(f"{where}: column {column!r} holds values that are no probabilities")
    for column in optional:
        if not frame[column].is_finite().all():
            raise DataError(f"{where}: column {column!r} holds values that are not finite")
    if not (frame["user_history"] >= 0).all():
        raise DataError(f"{where}: column 'user_history' holds negative counts")


def _check_same_clicks(first: str, clicks: pl.DataFrame, name: str, frame: pl.DataFrame) -> None:
    if len(frame) != len(clicks):
        raise DataError(
            f"models should predict the same clicks: {first!r} has {len(clicks)} rows, "
            f"{name!r} has {len(frame)}"
        )
    for column in (*KEYS, *(head for head in heads_of(frame) if head in clicks.columns)):
        if frame[column].dtype != clicks[column].dtype:
            raise DataError(
                f"column {column!r} is {clicks[column].dtype} in the predictions of {first!r} but "
                f"{frame[column].dtype} in those of {name!r}"
            )
        differing = (frame[column] != clicks[column]).arg_true()
        if len(differing):
            raise DataError(
                f"models should predict the same clicks in the same order: {first!r} and {name!r} "
                f"differ in {column!r} at row {differing[0]}"
            )


def _dimensions(
    clicks: pl.DataFrame,
) -> Iterator[tuple[str, Iterator[tuple[str, Mask]]]]:
    for column in ("day", "promotion"):
        values = clicks[column].cast(pl.String)
        yield column, ((v, (values == v).to_numpy()) for v in values.unique().sort())
    yield "user_history", _buckets(clicks["user_history"], _HISTORY)
    if "hours_to_promotion" in clicks.columns:
        yield "hours_to_promotion", _buckets(clicks["hours_to_promotion"], _HOURS)


def _buckets(
    values: pl.Series, buckets: tuple[tuple[float, str], ...]
) -> Iterator[tuple[str, Mask]]:
    starts = [start for start, _ in buckets]
    index = np.searchsorted(starts, values.to_numpy(), side="right") - 1
    return ((label, index == i) for i, (_, label) in enumerate(buckets))
