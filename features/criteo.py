"""Reader of the public Criteo conversion log (Chapelle, KDD 2014): a log of clicks, not of events.

Its lines are tab-separated: click timestamp and conversion timestamp in seconds (empty without a
conversion), 8 integer columns and 9 hashed categorical ones, any of which may be empty. It has no
users, items or promotions, so it skips the event log: the reader makes a directory of examples with
a feature spec of its own, which training, `cmdcm stream` and export take as any other.

    history       days [0, h - v)     trains
    validation    days [h - v, h)     stops the training early
    stream        from day h + g on   the test split

The three are "promotions" of the calendar that is written beside the examples. g is a gap: without
one, labels of the last days of the history become final during the stream only (docs/streaming.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from cmdcm.core.config import CalendarConfig, Config, PromotionConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import staged_directory, write_manifest
from cmdcm.datasets.calendar import DAY_MS, HOUR_MS, PromotionCalendar, calendar_of
from cmdcm.features.columns import LABELS
from cmdcm.features.output import by_promotion
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.schema import write_schema
from cmdcm.features.shards import Shards, shard_name, write_shards
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder

INTEGERS, CATEGORIES = 8, 9
HISTORY, VALIDATION, STREAM = "history", "validation", "stream"

_NAMES = (
    "click",
    "conversion",
    *(f"integer_{n}" for n in range(1, INTEGERS + 1)),
    *(f"category_{n}" for n in range(1, CATEGORIES + 1)),
)
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class CriteoDays:
    """How the days of the log are parted, and how long a click may convert.

    Attributes:
        history: Days before the stream that train and validate, h.
        validation: The last so many of them validate, v.
        gap: Days between history and stream that are left out, g.
        horizon: Conversions count up to so many days after the click.
    """

    history: int = 30
    validation: int = 1
    gap: int = 0
    horizon: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.validation < self.history or self.gap < 0 or self.horizon <= 0:
            raise ConfigError(
                "the days should be 0 < validation < history, with no negative gap and a horizon "
                f"above 0. Received: {self}"
            )


def criteo_spec(buckets: int) -> FeatureSpec:
    """Returns the columns of the examples.

    Args:
        buckets: Rows of the embedding table of each categorical column.
    """
    features = [
        Feature(
            name="integers",
            dtype="float32",
            side="context",
            shape="vector",
            length=INTEGERS,
            encoding="log1p",
            description="the integer columns; 0 for an empty one",
        ),
        Feature(
            name="integers_missing",
            dtype="float32",
            side="context",
            shape="vector",
            length=INTEGERS,
            encoding="raw",
            description="1 for an empty integer column",
        ),
    ]
    features += [
        Feature(
            name=f"category_{n}",
            dtype="string",
            side="item",
            encoding="hash",
            buckets=buckets,
            table=f"category_{n}",
            default="",
            description="a hashed categorical column",
        )
        for n in range(1, CATEGORIES + 1)
    ]
    labels = {
        "direct": "converted within the waiting window",
        "cart": "0: the log has none",
        "open_cart": "0: the log has none",
        "delayed": "converted after the waiting window",
        "conversion": "converted within the horizon",
    }
    features += [
        Feature(name=n, dtype="int64", side="label", description=labels[n]) for n in LABELS
    ]
    meta = {
        "click_time_ms": "the click, ms from the log's start",
        "observation_time_ms": "when all labels are known",
        "direct_known_ms": "when direct is known",
        "delayed_known_ms": "when all labels are known",
        "conversion_delay_ms": "click to conversion; -1 without one",
    }
    features.append(
        Feature(
            name="promotion", dtype="string", side="meta", default="", description="part of the log"
        )
    )
    features += [
        Feature(name=n, dtype="int64", side="meta", description=text) for n, text in meta.items()
    ]
    return FeatureSpec(features=tuple(features))


def read_criteo(
    source: Path, output: Path, config: Config, days: CriteoDays, *, overwrite: bool = False
) -> dict[str, int]:
    """Makes a directory of examples of the log.

    Args:
        source: The log, plain or gzip.
        output: Directory to write.
        config: `features.item_buckets` and `model.waiting_hours`; written beside the examples.
        days: The parts.
        overwrite: Replace an existing `output`.

    Returns:
        The rows of each part, and of clicks that were `left_out` in the gap.

    Raises:
        DataError: A malformed line, a conversion before its click, or a part without clicks.
        OutputError: `output` exists, or cannot be written.
    """
    spec = criteo_spec(config.features.item_buckets)
    calendar_config = _calendar(days)
    calendar = calendar_of(calendar_config)
    config = config.model_copy(update={"calendar": calendar_config})
    shards, left_out = Shards(), 0
    with staged_directory(output, overwrite=overwrite) as staging:
        for number, block in enumerate(_blocks(source)):
            parts, dropped = _examples(block, calendar, config, days)
            left_out += dropped
            tables = [part.select(list(spec.names())) for part in parts]
            name = shard_name(number, config.features.gzip)
            shards.merge(write_shards(tables, staging, name, spec, calendar, config.features.gzip))
        found = {day["promotion"] for day in shards.days.values()}
        missing = [part for part in (HISTORY, VALIDATION, STREAM) if part not in found]
        if missing:
            raise DataError(
                f"{source} has no clicks for {missing}; its days are "
                f"{sorted(shards.days)[:1]}..{sorted(shards.days)[-1:]}: choose other days"
            )
        _describe(staging, spec, config, shards)
    rows = {
        part: sum(d["rows"] for d in shards.days.values() if d["promotion"] == part)
        for part in (HISTORY, VALIDATION, STREAM)
    }
    return rows | {"left_out": left_out}


def _blocks(source: Path) -> Iterator[pa.Table]:
    """Yields the lines in blocks, as columns."""
    types: dict[str, pa.DataType] = dict.fromkeys(_NAMES[:2], pa.int64())
    types |= dict.fromkeys(_NAMES[2 : 2 + INTEGERS], pa.float32())
    types |= dict.fromkeys(_NAMES[2 + INTEGERS :], pa.string())
    try:
        with pacsv.open_csv(
            source,
            read_options=pacsv.ReadOptions(column_names=list(_NAMES), block_size=_BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(column_types=types),
        ) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
    except FileNotFoundError as error:
        raise DataError(f"there is no log at {source}") from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{source} is no Criteo conversion log (19 tab-separated columns: click and conversion "
            f"in seconds, {INTEGERS} integers, {CATEGORIES} categories): {error}"
        ) from error


def _examples(
    block: pa.Table, calendar: PromotionCalendar, config: Config, days: CriteoDays
) -> tuple[list[pa.Table], int]:
    """Returns the examples of a block by part, in the order of time, and how many are left out."""
    if block["click"].null_count:
        raise DataError("a line of the log has no click timestamp")
    click = block["click"].to_numpy() * 1000
    converts = ~block["conversion"].is_null().to_numpy()
    delay = np.where(converts, block["conversion"].fill_null(0).to_numpy() * 1000 - click, -1)
    if (converts & (delay < 0)).any():
        row = int(np.flatnonzero(converts & (delay < 0))[0])
        raise DataError(
            f"a conversion of the log is before its click: {block.slice(row, 1).to_pylist()[0]}"
        )
    waiting, horizon = (
        round(value) for value in (config.model.waiting_hours * HOUR_MS, days.horizon * DAY_MS)
    )
    converts &= delay <= horizon
    delay = np.where(converts, delay, -1)
    early = converts & (delay <= waiting)
    integers = [block[name].combine_chunks() for name in _NAMES[2 : 2 + INTEGERS]]
    zeros = np.zeros(len(click), np.int64)
    columns = {
        "integers": _vectors([c.fill_null(0).to_numpy() for c in integers]),
        "integers_missing": _vectors([c.is_null().to_numpy(False) for c in integers]),
        **{name: block[name].fill_null("") for name in _NAMES[2 + INTEGERS :]},
        "direct": early.astype(np.int64),
        "cart": zeros,
        "open_cart": zeros,
        "delayed": (converts & ~early).astype(np.int64),
        "conversion": converts.astype(np.int64),
        "click_time_ms": click,
        "observation_time_ms": click + horizon,
        "direct_known_ms": click + waiting,
        "delayed_known_ms": click + horizon,
        "conversion_delay_ms": delay,
    }
    table = pa.table(columns)
    parts, kept = [], 0
    for promotion in calendar.promotions:
        chosen = np.flatnonzero(
            (click >= promotion.pre_promotion_start_ms) & (click < promotion.promotion_end_ms)
        )
        if len(chosen):
            part = table.take(chosen[np.argsort(click[chosen], kind="stable")])
            names = pa.repeat(promotion.name, len(chosen))
            parts.append(part.append_column("promotion", names))
            kept += len(chosen)
    return parts, len(click) - kept


def _vectors(columns: list[np.ndarray]) -> pa.Array:
    flat = np.stack(columns, axis=1).astype(np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), len(columns))


def _calendar(days: CriteoDays) -> CalendarConfig:
    """The parts as promotions in UTC; their clicks are examples whatever the hour."""
    start = days.history + days.gap

    def part(name: str, first: int, end: int) -> PromotionConfig:
        def day(number: float) -> str:
            instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=number)
            return instant.replace(tzinfo=None).isoformat()

        return PromotionConfig(
            name=name,
            kind="criteo",
            warmup_start=day(first),
            pre_promotion_start=day(first),
            promotion_start=day(end - 0.5),
            promotion_end=day(end),
        )

    return CalendarConfig(
        timezone="UTC",
        promotions=(
            part(HISTORY, 0, days.history - days.validation),
            part(VALIDATION, days.history - days.validation, days.history),
            part(STREAM, start, start + 36_500),
        ),
    )


def _describe(directory: Path, spec: FeatureSpec, config: Config, shards: Shards) -> None:
    spec.save(directory / "spec.json")
    config.save(directory / "config.json")
    write_schema(directory / "schema.pbtxt", spec)
    statistics = StatisticsBuilder(spec)
    for _, builder in sorted(shards.statistics.items()):
        statistics.merge(builder)
    statistics.write(directory / "statistics.pbtxt")
    days = dict(sorted(shards.days.items()))
    write_manifest(
        directory,
        {
            "kind": EXAMPLES,
            "rows": sum(day["rows"] for day in days.values()),
            "days": days,
            "promotions": by_promotion(days),
            "timezone": "UTC",
        },
        shards.files,
    )
