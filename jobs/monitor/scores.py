"""Logged predictions -> one row a scored candidate: who, what, when, by which version, how much.

A PredictionLog holds no time. It is found from the inputs: `hours_to_promotion` before the start of
the last promotion of that kind whose window has opened.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar
from cmdcm.export.signatures import EXAMPLES_INPUT
from cmdcm.features.rows import parse_rows
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.jobs.prediction_logs import read_logs
from cmdcm.model.base import OUTPUTS
from cmdcm.serving.tensors import from_protos

_KEYS = ("user_id", "item_id", "hours_to_promotion", "promotion_kind")
SLACK_MS = 1000
"""How far a time found from hours as float32 may be off."""


@dataclass(frozen=True)
class Scores:
    """Scored candidates.

    Attributes:
        rows: Columns time_ms, version, weight (1 / the sampling rate), user_id, item_id, the slice
            columns as text, and the `OUTPUTS` that were answered (null where they were not).
        requests: Requests that were read.
        skipped: What was passed over, by the reason: requests, and rows of no pre-promotion window.
    """

    rows: pl.DataFrame
    requests: int
    skipped: Mapping[str, int]


def read_scores(
    files: Sequence[Path],
    spec: FeatureSpec,
    calendar: PromotionCalendar,
    *,
    slices: Sequence[str] = (),
    until_ms: int,
    max_bytes: int,
) -> Scores:
    """Reads logged predictions.

    Args:
        files: TFRecords of PredictionLog, plain or gzip, with answers.
        spec: The model's features.
        calendar: The promotions.
        slices: Scalar inputs to keep.
        until_ms: Now: no request is later, UTC ms.
        max_bytes: The largest tensors that a request may carry.

    Raises:
        ConfigError: A slice is no scalar input, or the spec lacks what tells user, item and time.
        DataError: A file is missing, corrupted, or holds something else.
    """
    names = list(dict.fromkeys([*_KEYS, *slices]))
    for name in names:
        if name not in spec or not spec[name].is_input or spec[name].shape != "scalar":
            raise ConfigError(f"monitoring needs {name!r} as a scalar input; the model has none")
    features = [spec[name] for name in names]
    parts: list[dict[str, np.ndarray]] = []
    skipped: Counter[str] = Counter()
    for log in read_logs(files):
        try:
            parts.append(_rows(log, features, max_bytes))
        except (ValueError, DataError, DecodeError) as error:
            skipped[str(error)] += 1
    rows = _table(parts, features)
    times = _times(rows, calendar, until_ms)
    rows = rows.select(
        pl.Series("time_ms", times),
        "version",
        "weight",
        "user_id",
        "item_id",
        *(pl.col(name).cast(pl.String).alias(f"slice:{name}") for name in slices),
        *OUTPUTS,
    )
    outside = int((times < 0).sum())
    if outside:
        skipped["rows of no pre-promotion window of the calendar"] = outside
    return Scores(rows.filter(pl.col("time_ms") >= 0), len(parts), dict(skipped))


def _rows(
    log: prediction_log_pb2.PredictionLog, features: Sequence[Feature], max_bytes: int
) -> dict[str, np.ndarray]:
    """Returns the columns of one request.

    Raises:
        ValueError: It has no answer, or one of another number of rows.
    """
    if log.WhichOneof("log_type") != "predict_log":
        raise ValueError(f"{log.WhichOneof('log_type') or 'empty record'} is no Predict call")
    call = log.predict_log
    if not call.response.outputs:
        raise ValueError("no answer is logged")
    outputs = from_protos(call.response.outputs, max_bytes)
    scores = {name: outputs[name].ravel().astype(float) for name in OUTPUTS if name in outputs}
    if not scores:
        raise ValueError(f"the answer has none of {list(OUTPUTS)}")
    inputs = from_protos(call.request.inputs, max_bytes)
    if list(inputs) == [EXAMPLES_INPUT]:
        table = parse_rows([bytes(row) for row in inputs[EXAMPLES_INPUT].ravel()], features)
        columns = {
            f.name: np.array(
                [f.default if v is None else v for v in table[f.name].to_pylist()], _dtype(f)
            )
            for f in features
        }
    else:
        missing = [f.name for f in features if f.name not in inputs]
        if missing:
            raise ValueError(f"the request lacks {missing}")
        columns = {f.name: inputs[f.name].ravel() for f in features}
    count = len(next(iter(scores.values())))
    for name, values in {**columns, **scores}.items():
        if len(values) not in (1, count) or (len(values) != count and name in scores):
            raise ValueError(f"{name} has {len(values)} values for {count} scores")
    rate = log.log_metadata.sampling_config.sampling_rate
    return {
        **{name: np.broadcast_to(values, count) for name, values in columns.items()},
        **{name: scores.get(name, np.full(count, np.nan)) for name in OUTPUTS},
        "version": np.full(count, call.response.model_spec.version.value, np.int64),
        "weight": np.full(count, 1 / rate if rate > 0 else 1.0),
    }


def _dtype(feature: Feature) -> np.dtype:
    return np.dtype("O") if feature.dtype == "string" else np.dtype(feature.dtype)


def _table(parts: Sequence[Mapping[str, np.ndarray]], features: Sequence[Feature]) -> pl.DataFrame:
    empty = {f.name: np.zeros(0, _dtype(f)) for f in features}
    empty |= {name: np.zeros(0) for name in (*OUTPUTS, "weight")}
    columns = {
        name: np.concatenate([part[name] for part in parts]) if parts else none
        for name, none in {**empty, "version": np.zeros(0, np.int64)}.items()
    }
    kinds = {f.name: pl.Binary for f in features if f.dtype == "string"}
    frame = pl.DataFrame(
        [
            pl.Series(name, [bytes(v, "utf-8") if isinstance(v, str) else bytes(v) for v in values])
            .cast(pl.Binary)
            .cast(pl.String, strict=False)
            if name in kinds
            else pl.Series(name, values)
            for name, values in columns.items()
        ]
    )
    return frame.with_columns(pl.col(list(OUTPUTS)).fill_nan(None))


def _times(rows: pl.DataFrame, calendar: PromotionCalendar, until_ms: int) -> np.ndarray:
    """Returns when each row was asked for, UTC ms; -1 where no promotion fits."""
    hours = rows["hours_to_promotion"].to_numpy().astype(np.float64)
    kinds = rows["promotion_kind"].to_numpy()
    found = np.full(len(rows), -1, np.int64)
    for promotion in calendar.promotions:
        if promotion.pre_promotion_start_ms > until_ms:
            continue
        times = np.rint(promotion.promotion_start_ms - hours * HOUR_MS)
        fits = (
            (times >= promotion.pre_promotion_start_ms - SLACK_MS)
            & (times < promotion.promotion_start_ms + SLACK_MS)
            & (times <= until_ms + SLACK_MS)
        )
        # Only the last promotion of a kind is monitored, never the one of the year before.
        of_kind = kinds == promotion.kind
        found[of_kind] = np.where(fits, times, -1).astype(np.int64)[of_kind]
    return found
