"""Scoring a data set with a model in memory: the reference for every other way to score."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from cmdcm.core.errors import DataError
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.features.input import examples, input_errors
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.inputs import Tensors

KEPT = (
    "user_id",
    "item_id",
    "click_time_ms",
    "promotion",
    "direct",
    "cart",
    "open_cart",
    "delayed",
    "conversion",
    "refunded",
    "conversion_delay_ms",
    "user_history",
    "hours_to_promotion",
)
"""Columns of the examples that stay beside the predictions, for the evaluation."""


def predict(
    model: RankingModel,
    files: Sequence[Path],
    spec: FeatureSpec,
    calendar: PromotionCalendar,
    batch_size: int = 4096,
    on_corrupt: Literal["fail", "skip"] = "fail",
    skipped: list[DataError] | None = None,
    observe: Callable[[Tensors, Tensors], None] | None = None,
    keep: Sequence[str] = (),
) -> pl.DataFrame:
    """Scores examples.

    Args:
        model: The model.
        files: Files of examples.
        spec: The columns of the examples.
        calendar: Gives the clicks' local days.
        batch_size: Examples of a batch.
        on_corrupt: As `features.input.examples` has it.
        skipped: As `features.input.examples` has it.
        observe: Called with each batch, its inputs and the columns `KEPT`, and with its scores.
        keep: Scalar columns of the examples that stay besides `KEPT`.

    Returns:
        One row an example, in the order of the files: the columns `KEPT` that the examples have,
        `day` (local date of the click) and the model's outputs as float32; with `refunded` also
        `effective`, a conversion without it. See `cmdcm.model.predictions`.
    """
    columns = [f.name for f in spec.inputs]
    kept_names = [name for name in dict.fromkeys((*KEPT, *keep)) if name in spec]
    columns += [name for name in kept_names if name not in columns]
    parts = []
    with input_errors():
        for batch in examples(
            files,
            spec,
            batch_size=batch_size,
            columns=columns,
            on_corrupt=on_corrupt,
            skipped=skipped,
        ):
            scores = model.scorer({f.name: batch[f.name] for f in spec.inputs})
            if observe is not None:
                observe(batch, scores)
            kept = {name: _column(batch[name].numpy()) for name in kept_names}
            kept |= {name: pl.Series(value.numpy()) for name, value in scores.items()}
            parts.append(pl.DataFrame(kept))
    frame = pl.concat(parts)
    if "refunded" in frame.columns:
        frame = frame.with_columns(effective=pl.col("conversion") * (1 - pl.col("refunded")))
    days = calendar.local_days(frame["click_time_ms"].to_numpy())
    return frame.with_columns(pl.Series("day", days.astype("datetime64[ms]")).cast(pl.Date))


def _column(values: np.ndarray) -> pl.Series:
    if values.dtype == object:
        return pl.Series(values.tolist(), dtype=pl.Binary).cast(pl.String)
    return pl.Series(values)
