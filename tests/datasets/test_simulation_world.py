"""The world as a whole: impressions, its answers to a policy, and its streams."""

import numpy as np
import polars as pl
import pytest

from cmdcm.core.config import Config, load_config
from cmdcm.datasets import simulator
from cmdcm.datasets.simulation import world as world_module
from cmdcm.datasets.simulation.randomness import stream
from cmdcm.datasets.simulation.world import Drawn, World

SLOTS = 6


def config_of(*overrides: str) -> Config:
    return load_config(overrides=[f"simulate.{override}" for override in overrides])


@pytest.fixture(scope="module")
def world() -> World:
    return World.open(config_of("events=150000", f"impressions={SLOTS}", "click_rate=0.1"))


@pytest.fixture(scope="module")
def drawn(world: World) -> Drawn:
    return world.draw(np.random.default_rng(1), world.users)


@pytest.fixture(scope="module")
def log(world: World) -> pl.DataFrame:
    events = pl.DataFrame(simulator.draw_chunk(world, 0).events)
    return events.with_columns(pl.col("kind").cast(pl.String))


def test_impressions_and_their_clicks_name_the_request(log: pl.DataFrame):
    assert abs(len(log) / 150_000 - 1) < 0.15
    kind = pl.col("kind")
    impressions = log.filter(kind == "impression")
    assert impressions["request_id"].null_count() == 0
    assert impressions["position"].is_between(0, SLOTS - 1).all()
    assert not impressions.select("request_id", "position").is_duplicated().any()
    assert not impressions.select("request_id", "item_id").is_duplicated().any()
    per_request = impressions.group_by("request_id").agg(
        pl.len(), pl.col("user_id", "timestamp").n_unique(), pl.col("position").max()
    )
    assert per_request["user_id"].max() == per_request["timestamp"].max() == 1
    # Slots fill from the first one on; a session's last ones may lie after the period.
    size = per_request["len"].to_numpy()
    assert (per_request["position"].to_numpy() == size - 1).mean() > 0.999
    assert size.mean() > SLOTS - 0.5

    answers = log.filter((kind != "impression") & pl.col("request_id").is_not_null())
    assert (answers["kind"] == "click").all()
    keys = ["request_id", "position", "item_id", "user_id"]
    matched = answers.join(impressions, on=keys, suffix="_shown")
    assert len(matched) == len(answers) > 5_000
    waited = (matched["timestamp"] - matched["timestamp_shown"]).dt.total_seconds()
    assert (waited == 2 + 3 * matched["position"]).all()
    # Further clicks of a visit, and those on promotion days, answer no impression.
    others = log.filter((kind == "click") & pl.col("request_id").is_null())
    assert others["position"].null_count() == len(others) > 500


def test_impressions_are_clicked_as_their_probability_says(world: World, drawn: Drawn):
    met = drawn.meetings
    answer = world.respond(met.user, met.item, met.request_ms, met.mood, met.position)
    p = answer.probabilities.click
    assert p.mean() == pytest.approx(0.1, rel=0.1)
    for low, high in ((0, 1), (0, 0.05), (0.05, 0.12), (0.12, 1)):
        inside = (p >= low) & (p < high)
        error = np.sqrt((p * (1 - p))[inside].sum())
        assert inside.sum() > 1_000
        assert abs((answer.clicked - p)[inside].sum()) < 4 * error
    # The log's visits are the clicked ones, but for pairs that were visited in the season before.
    visited = np.zeros(len(met), bool)
    visited[drawn.rows] = True
    assert answer.clicked[visited].all()
    assert visited[answer.clicked & (met.season < 0)].all()
    assert visited[answer.clicked].mean() > 0.9
    by_slot = [answer.clicked[met.position == slot].mean() for slot in range(SLOTS)]
    assert by_slot[0] > by_slot[2] > by_slot[5]


def test_the_answer_to_the_log_is_the_log(world: World, drawn: Drawn):
    rows = drawn.visits
    shuffled = np.random.default_rng(0).permutation(len(rows))[:5_000]
    visits = rows.take(shuffled)
    answer = world.respond(
        visits.user, visits.item, visits.request_ms, visits.mood, visits.position
    )
    for name in ("click", "direct", "propensity", "cart", "r1", "r0", "delayed", "refund"):
        np.testing.assert_array_equal(
            getattr(answer.probabilities, name), getattr(drawn.probabilities, name)[shuffled]
        )
    for name in ("direct", "cart", "delayed_if_carted", "delayed_if_uncarted", "delayed"):
        np.testing.assert_array_equal(
            getattr(answer.outcomes, name), getattr(drawn.outcomes, name)[shuffled]
        )
    np.testing.assert_array_equal(answer.price, world.items.price[visits.item])
    share = answer.promotion_price / answer.price
    np.testing.assert_allclose(share, 1 - world.items.depth[visits.item], atol=0.02)


def test_policies_meet_the_same_luck(world: World):
    start = world.timeline.calendar.promotions[1].promotion_start_ms
    rng = np.random.default_rng(0)
    user = rng.integers(len(world.users), size=4_000)
    item = rng.integers(len(world.items), size=4_000)
    time_ms = start - rng.integers(1, 240, size=4_000) * 3_600_000
    mood, slot = rng.standard_normal(4_000), np.zeros(4_000, np.int64)
    one = world.respond(user, item, time_ms, mood, slot)
    # A lower slot, or another hour, changes probabilities, not luck: what happens is nested.
    lower = world.respond(user, item, time_ms, mood, slot + SLOTS)
    assert (lower.probabilities.click < one.probabilities.click).all()
    assert not (lower.clicked & ~one.clicked).any()
    keener = world.respond(user, item, time_ms, mood + 2, slot)
    assert not (one.outcomes.cart & ~keener.outcomes.cart & ~keener.outcomes.direct).any()
    np.testing.assert_array_equal(keener.outcomes.delayed_if_carted, one.outcomes.delayed_if_carted)


def test_a_log_without_impressions_answers_too():
    world = World.open(config_of("events=20000"))
    zeros = np.zeros(200, np.int64)
    item = np.arange(200) % len(world.items)
    start = world.timeline.calendar.promotions[0].promotion_start_ms
    answer = world.respond(zeros, item, zeros + start - 10**8, np.zeros(200), zeros)
    assert np.isfinite(answer.probabilities.click).all()
    assert 0 < answer.probabilities.click.mean() < 0.5
    # In its log nothing was shown.
    chunk = simulator.draw_chunk(world, 0)
    assert "request_id" not in chunk.events.column_names
    assert chunk.truth["p_click"].null_count == chunk.truth.num_rows


def test_the_truth_knows_the_impressions_probability(world: World):
    truth = simulator.draw_chunk(world, 0).truth
    p = truth["p_click"].to_numpy()
    assert 0 < p.min() < p.max() < 1
    # What is clicked was likelier to be.
    assert p.mean() > 0.11


def test_each_draw_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch):
    keys = []

    def record(seed: int, *key: int) -> np.random.Generator:
        keys.append(key)
        return stream(seed, *key)

    monkeypatch.setattr(simulator, "EVENTS_PER_CHUNK", 1_000)
    monkeypatch.setattr(simulator, "stream", record)
    monkeypatch.setattr(world_module, "stream", record)
    world = World.open(config_of("events=3000"))
    for chunk in range(simulator.chunk_count(world)):
        simulator.draw_chunk(world, chunk)
    assert len(keys) == len(set(keys)) == 8
    firsts = {int(stream(1, *key).integers(2**62)) for key in keys}
    assert len(firsts) == len(keys)
