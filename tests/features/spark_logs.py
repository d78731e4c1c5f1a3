"""Logs for the tests of the Spark runner, with the rows that the slow reference makes of them."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cmdcm.core.config import Config, LabelsConfig
from cmdcm.datasets.calendar import to_ms
from cmdcm.datasets.log import EventLog, open_event_log
from cmdcm.tests.features.logs import FEATURES, Log, dense_log, instants
from cmdcm.tests.features.reference import KIND_ORDER
from cmdcm.tests.features.test_pipeline import CALENDAR, ZONE, expected_values, shard_rows

OBSERVED = "2024-04-20"


def skewed_log() -> Log:
    """Half of the events on one item; users of one event, bots, ties, duplicates and refunds."""
    log = Log(
        [],
        columns=("user_id", "item_id", "kind", "timestamp", "category_id", "seller_id", "quantity"),
        string_ids=("user_id", "category_id"),
        features=FEATURES.model_copy(update={"max_events_per_hour": 4}),
        labels=LabelsConfig(
            attribute_to="seller",
            credit="last",
            delayed_days=2,
            refunds="cancel",
            values=True,
            micro=True,
            dedup_seconds=60,
            observed_until=OBSERVED,
        ),
        observed_until_ms=to_ms(OBSERVED, ZONE),
    )
    rng, times = random.Random(3), instants(log.calendar)
    kinds = ("click", "click", "cart", "purchase", "refund", *KIND_ORDER)
    for number in range(300):
        log.events.append(
            {
                "user_id": f"once-{number}" if number % 3 else rng.choice(["bot", "ä", "often"]),
                "item_id": 7 if number % 2 else rng.randrange(-20, 20),
                "kind": rng.choice(kinds),
                "time": rng.choice(times),
                "category_id": rng.choice([None, "", "shoes", "çanta"]),
                "seller_id": rng.choice([None, 1, 2]),
                "quantity": rng.choice([None, 1, 3]),
            }
        )
    log.events.extend(dict(event) for event in log.events[:20])
    return log


def dense() -> Log:
    """Few users and items, so that all of them meet; string ids of items, and prices."""
    return dense_log(
        0,
        events=300,
        columns=("user_id", "item_id", "kind", "timestamp", "category_id", "price"),
        string_ids=("item_id",),
        labels=LabelsConfig(
            attribution_days=3, refunded=True, refund_days=2, observed_until=OBSERVED
        ),
        observed_until_ms=to_ms(OBSERVED, ZONE),
    )


LOGS = {"skewed": skewed_log(), "dense": dense()}


@dataclass(frozen=True)
class Stored:
    """A log on disk, and how to make examples of it."""

    log: Log
    events: EventLog
    config: Config

    @classmethod
    def of(cls, log: Log, path: Path, files: int = 3, **features: Any) -> "Stored":
        """Writes the log as one's own Parquet files."""
        path.mkdir()
        size = -(-len(log.events) // files)
        for n in range(files):
            part = log.events[n * size : (n + 1) * size]
            pq.write_table(log.table(part), path / f"{n}.parquet")
        settings = log.features.model_copy(update={"partitions": 3, **features})
        config = Config(calendar=CALENDAR, labels=log.labels, features=settings)
        return cls(log, open_event_log(path), config)

    def expected(self) -> Counter[str]:
        """The reference's rows, in no order."""
        spec = self.log.spec
        rows = [{name: row[name] for name in spec.names()} for row in self.log.reference()]
        return Counter(_row(expected_values(spec, row)) for row in rows)


def written(directory: Path) -> Counter[str]:
    """The rows of a data set, in no order."""
    return Counter(_row(row) for row in shard_rows(sorted(directory.glob("*/part-*"))))


def _row(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items()))
