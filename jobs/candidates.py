"""Examples of an auction's candidates: the pipeline's own features, at the time of the request."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import calendar_of
from cmdcm.datasets.events import KIND_ENUM
from cmdcm.datasets.log import EventLog
from cmdcm.datasets.simulation import Ints
from cmdcm.datasets.simulation.population import Items
from cmdcm.datasets.simulation.world import World
from cmdcm.features.cleaning import drop_bots
from cmdcm.features.columns import example_spec
from cmdcm.features.examples import EngineSettings, build_examples
from cmdcm.features.history import History, partition_totals
from cmdcm.features.plan import Plan
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.auction import Auctions

ROWS = 20_000
"""The most examples that are held at a time."""

_NO_END = 2**62


def candidate_examples(
    log: EventLog, world: World, auctions: Auctions, config: Config
) -> Iterator[tuple[Ints, pa.Table]]:
    """Makes an example of each candidate.

    A candidate is an `impression` at its request's time, and impressions make the examples. The
    log's own impressions are left out, and no feature counts any, so that a candidate sees what a
    click of the same moment would: the user's events before it, items in complete hours.

    Args:
        log: The world's event log.
        world: The world.
        auctions: The requests and their candidates; each (user, item) once.
        config: Calendar, labels and features, those of the models' examples.

    Yields:
        Places [n] in `auctions.item`, row by row, and the examples of the candidates there, in
        the columns of the examples' spec.

    Raises:
        ConfigError: `features.count_kinds` has impressions.
        DataError: The log is not of this world, or some candidate makes no example.
    """
    if "impression" in config.features.count_kinds:
        raise ConfigError(
            "features.count_kinds counts impressions, which every policy of an experiment would "
            "change; leave them out, and train models without them"
        )
    plan = Plan.of(log, config)
    check_world(log, world)
    names = list(plan.columns)
    events = log.scan().select(names).collect()
    events = drop_bots(events, config.features.max_events_per_hour)
    events = events.filter(pl.col("kind") != "impression")
    calendar = calendar_of(config.calendar)
    kinds = config.features.count_kinds
    totals = partition_totals(events, calendar, kinds, config.labels.intent)
    settings: EngineSettings = replace(
        plan.settings, anchor_kind="impression", observed_until_ms=_NO_END
    )
    user = np.repeat(auctions.user, auctions.item.shape[1])
    item = auctions.item.ravel()
    shown = _events(world.items, user, item, np.repeat(auctions.time_ms, auctions.item.shape[1]))
    events = pl.concat([events, shown.select(names).cast(events.schema)])

    pair = user * len(world.items) + item
    order = np.argsort(pair)
    index = _positions(world.items)
    made = 0
    history = History.of([totals], kinds)
    for table in build_examples(events, history, settings, ROWS):
        users, ids = (table[name].to_numpy() for name in ("user_id", "item_id"))
        places = order[np.searchsorted(pair[order], (users - 1) * len(index) + index[ids - 1])]
        made += len(places)
        yield places, table
    if made != len(pair):
        raise DataError(
            f"{len(pair) - made} of {len(pair)} candidates make no example: the requests are not "
            "in a pre-promotion window of [calendar]; take the configuration of the examples"
        )


def inputs_of(log: EventLog, config: Config) -> list[str]:
    """Returns what the models' inputs have to be, as `described` has it."""
    calendar = calendar_of(config.calendar)
    return described(example_spec(config.features, log.schema, calendar, config.labels))


def described(spec: FeatureSpec) -> list[str]:
    """Returns the inputs of a spec as text, one entry an input."""
    return [feature.model_dump_json(exclude={"description"}) for feature in spec.inputs]


def visited_pairs(log: EventLog, world: World, start_ms: int, end_ms: int) -> Ints:
    """Returns the numbers `user * items + item` of the pairs with events in [start, end)."""
    time = pl.col("timestamp").dt.epoch("ms")
    pairs = (
        log.scan()
        .filter((pl.col("kind") != "impression") & (time >= start_ms) & (time < end_ms))
        .select("user_id", "item_id")
        .unique()
        .collect()
    )
    item = _positions(world.items)[pairs["item_id"].to_numpy() - 1]
    return np.asarray((pairs["user_id"].to_numpy() - 1) * len(world.items) + item)


def check_world(log: EventLog, world: World) -> None:
    """Refuses a log whose items or users are not those of the world.

    Raises:
        DataError: An identifier that the world does not have, or an item of another category.
    """
    named = log.scan().select("user_id", "item_id", "category_id").unique().collect()
    item = named["item_id"].to_numpy() - 1
    user = named["user_id"].to_numpy()
    known = bool((user <= len(world.users)).all() and (item < len(world.items)).all())
    if known:
        category = 1 + world.items.category[_positions(world.items)[item]]
        known = bool((category == named["category_id"].to_numpy()).all())
    if not known:
        raise DataError(
            f"{log.path} is not the log of the world that its manifest describes: another version "
            "of the simulator made it; simulate it again"
        )


def _positions(items: Items) -> Ints:
    """[items], the position of each identifier, less one, among the world's items."""
    return np.argsort(items.item_id)


def _events(items: Items, user: Ints, item: Ints, time_ms: Ints) -> pl.DataFrame:
    brand = pl.Series(1 + items.brand[item])
    return pl.DataFrame(
        {
            "user_id": user + 1,
            "item_id": items.item_id[item],
            "kind": pl.repeat("impression", len(item), dtype=KIND_ENUM, eager=True),
            "timestamp": pl.Series(time_ms).cast(pl.Datetime("ms", "UTC")),
            "category_id": 1 + items.category[item],
            "seller_id": 1 + items.seller[item],
            "brand_id": brand.set(brand == 0, None),
            "price": items.price[item],
            "quantity": pl.repeat(None, len(item), dtype=pl.Int32, eager=True),
        }
    )
