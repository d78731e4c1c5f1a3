"""Features of candidates: those that the pipeline makes of clicks at the same moment."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_manifest
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.datasets.log import kind_array, open_event_log, write_event_log
from cmdcm.datasets.simulation.world import World
from cmdcm.features.encode import encode_examples
from cmdcm.features.rows import parse_rows, sample_rows
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.auction import Auctions
from cmdcm.jobs.candidates import candidate_examples, visited_pairs


@pytest.fixture(scope="module")
def log(small_world):
    return open_event_log(small_world.events)


@pytest.fixture(scope="module")
def world(small_world):
    return World.open(small_world.config)


def pretended(clicks: pl.DataFrame, world: World) -> Auctions:
    """An auction for each click, with the clicked item as its only candidate."""
    item = np.argsort(world.items.item_id)[clicks["item_id"].to_numpy() - 1]
    return Auctions(
        user=clicks["user_id"].to_numpy() - 1,
        time_ms=clicks["click_time_ms"].to_numpy(),
        mood=np.zeros(len(clicks)),
        item=item[:, None],
        bid=np.ones((len(clicks), 1)),
    )


@pytest.fixture(scope="module")
def clicks(small_world):
    """The pipeline's examples, as they lie in the shards: of each pair the last one."""
    spec = FeatureSpec.load(small_world.examples / "spec.json")
    manifest = read_manifest(small_world.examples, "examples")
    rows = pl.DataFrame(sample_rows(small_world.examples, manifest, spec, manifest["rows"]))
    return rows.unique(["user_id", "item_id"], keep="last", maintain_order=True)


def made(log, world, auctions, config, spec) -> pl.DataFrame:
    parts = [
        (places, parse_rows(list(encode_examples(table)), spec.inputs))
        for places, table in candidate_examples(log, world, auctions, config)
    ]
    order = np.concatenate([places for places, _ in parts])
    assert np.array_equal(np.sort(order), np.arange(len(order)))
    return pl.concat([pl.DataFrame(table) for _, table in parts])[np.argsort(order)]


def test_a_candidate_has_the_features_of_a_click_at_the_same_moment(
    small_world, log, world, clicks
):
    spec = FeatureSpec.load(small_world.examples / "spec.json")
    assert len(clicks) > 1_000
    rows = made(log, world, pretended(clicks, world), small_world.config, spec)
    for feature in spec.inputs:
        assert rows[feature.name].to_list() == clicks[feature.name].to_list(), feature.name
    # Not of nothing: most of the clicks have a past.
    assert np.median(rows["user_history"].to_numpy()) > 10


def test_candidates_do_not_see_each_other(small_world, log, world, clicks):
    spec = FeatureSpec.load(small_world.examples / "spec.json")
    some = clicks.filter(pl.col("promotion") == clicks["promotion"][-1])[:40]
    together = made(log, world, pretended(some, world), small_world.config, spec)
    alone = made(log, world, pretended(some[-1:], world), small_world.config, spec)
    assert together[-1:].equals(alone)


def test_impressions_of_the_log_change_nothing(small_world, log, world, clicks, tmp_path):
    spec = FeatureSpec.load(small_world.examples / "spec.json")
    some = pretended(clicks[-200:], world)
    (table,) = log.batches()
    kinds = np.full(len(table), EVENT_KINDS.index("impression"))
    shown = table.set_column(table.column_names.index("kind"), "kind", kind_array(kinds))
    path = tmp_path / "log"
    write_event_log(path, [table, shown.cast(table.schema)], description={})
    noisy = open_event_log(path)
    assert noisy.manifest["rows_by_kind"]["impression"] == len(table)
    expected = made(log, world, some, small_world.config, spec)
    assert made(noisy, world, some, small_world.config, spec).equals(expected)


def test_visited_pairs_are_those_of_the_season(log, world):
    start, end = 1_700_000_000_000, 1_710_000_000_000
    pairs = visited_pairs(log, world, start, end)
    time = pl.col("timestamp").dt.epoch("ms")
    events = log.scan().filter((time >= start) & (time < end)).collect()
    wanted = {(user, item) for user, item in events.select("user_id", "item_id").iter_rows()}
    found = {
        (int(pair // len(world.items)) + 1, int(world.items.item_id[pair % len(world.items)]))
        for pair in pairs
    }
    assert found == wanted
    assert len(found) == len(pairs) > 100


def test_features_that_count_impressions_are_refused(small_world, log, world, clicks):
    features = small_world.config.features.model_copy(
        update={"count_kinds": ("click", "impression")}
    )
    config = small_world.config.model_copy(update={"features": features})
    with pytest.raises(ConfigError, match="counts impressions"):
        list(candidate_examples(log, world, pretended(clicks[:3], world), config))


def test_the_log_of_another_world_is_refused(small_world, log, clicks):
    config = small_world.config.model_copy(update={"seed": 99})
    other = World.open(config)
    with pytest.raises(DataError, match="not the log of the world"):
        list(candidate_examples(log, other, pretended(clicks[:3], other), config))


def test_requests_outside_of_the_calendars_windows_are_refused(small_world, log, world, clicks):
    at = np.full(3, 1_700_000_000_000 + 86_400_000 * 50)
    auctions = replace(pretended(clicks[:3], world), time_ms=at)
    with pytest.raises(DataError, match="3 of 3 candidates make no example"):
        list(candidate_examples(log, world, auctions, small_world.config))
