"""The parts of the simulated world against hand-made numbers and independent formulas."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import SimulateConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets import simulator
from cmdcm.datasets.calendar import DAY_MS, to_ms
from cmdcm.datasets.simulation import Ints, emission, outcomes
from cmdcm.datasets.simulation.delays import CART, DIRECT, REPEAT, RETURN, SIGN, Delay
from cmdcm.datasets.simulation.population import Items, Users, draw_items, draw_users
from cmdcm.datasets.simulation.timeline import BEFORE, DURING, OUTSIDE, Timeline, build_timeline
from cmdcm.datasets.simulation.visits import Visits, draw_visits

ZONE = "Asia/Shanghai"


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return build_timeline(SimulateConfig(years=1), ZONE)


@pytest.fixture(scope="module")
def items() -> Items:
    return draw_items(np.random.default_rng(1), 2_000)


@pytest.fixture(scope="module")
def users(timeline: Timeline, items: Items) -> Users:
    return draw_users(np.random.default_rng(2), 500, 0.4, timeline, items)


@pytest.fixture(scope="module")
def visits(timeline: Timeline, items: Items, users: Users) -> Visits:
    return draw_visits(np.random.default_rng(3), users, items, timeline, 20_000)


def instants(*local: str) -> Ints:
    return np.array([to_ms(time, ZONE) for time in local], np.int64)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_seasons_phases_and_deadlines(timeline: Timeline):
    times = instants("2023-10-19", "2023-10-20", "2023-11-10T23:59:59", "2023-11-11", "2023-11-12")
    season, phase, deadline = timeline.locate(times)
    assert season.tolist() == [-1, 1, 1, 1, -1]
    assert phase.tolist() == [OUTSIDE, BEFORE, BEFORE, DURING, OUTSIDE]
    expected = instants("2023-10-20", "2023-11-11", "2023-11-11", "2023-11-12", "2023-11-30")
    assert deadline.tolist() == expected.tolist()
    assert timeline.ramp(times, season, phase)[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]
    assert timeline.ramp(times, season, phase)[2] == pytest.approx(1, abs=1e-5)
    after_all = timeline.locate(instants("2023-12-31"))
    assert after_all[2][0] == to_ms("2024-01-01", ZONE)


def test_pre_promotion_windows(timeline: Timeline):
    times = instants("2023-10-31T23:59:59", "2023-11-01", "2023-11-10T23:59:59", "2023-11-11")
    season, _, _ = timeline.locate(times)
    assert timeline.in_window(times, season).tolist() == [False, True, True, False]
    assert not timeline.in_window(times, np.full(4, -1)).any()


def test_a_season_starts_after_the_promotion_before():
    # Black Friday's warm-up begins on 3 November 2023, before Double 11 is over.
    timeline = build_timeline(
        SimulateConfig(years=1, promotions=("double11", "black_friday")), ZONE
    )
    assert timeline.seasons[1, 0] == timeline.seasons[0, 2] == to_ms("2023-11-12", ZONE)


def test_traffic_between_keeps_its_bounds_and_its_density(timeline: Timeline):
    rng = np.random.default_rng(0)
    first, last = instants("2023-11-08", "2023-11-12")
    size = 20_000
    uniform = rng.random(size)
    drawn = timeline.traffic_between(np.full(size, first), np.full(size, last), uniform)
    assert drawn.min() >= first
    assert drawn.max() < last
    assert (drawn % 1000 == 0).all()
    by_day = np.bincount((drawn - first) // DAY_MS)
    mass = np.interp(first + DAY_MS * np.arange(5), timeline.hours, timeline.mass)
    np.testing.assert_allclose(by_day / size, np.diff(mass) / (mass[-1] - mass[0]), atol=0.02)


@pytest.mark.parametrize("delay", [REPEAT, SIGN, CART, DIRECT, RETURN])
def test_delays_are_distribution_functions(delay: Delay):
    assert (np.diff(delay.seconds) > 0).all()
    assert (np.diff(delay.shares) > 0).all()
    assert (delay.shares[0], delay.shares[-1]) == (0, 1)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=20), st.integers(0, 2**32))
def test_delays_stay_within_what_is_left(within: list[int], seed: int):
    drawn = DIRECT.draw(np.random.default_rng(seed), np.array(within))
    assert (drawn >= 0).all()
    assert (drawn <= within).all()


def test_delays_have_the_shares_of_the_table_also_when_cut():
    drawn = DIRECT.draw(np.random.default_rng(0), np.full(50_000, 6 * 3600))
    for seconds, share in zip(DIRECT.seconds[1:4], DIRECT.shares[1:4], strict=True):
        assert (drawn <= seconds).mean() == pytest.approx(share / DIRECT.shares[3], abs=0.01)


def test_items_are_zipf_popular_within_their_category(items: Items):
    drawn = items.draw_within(np.random.default_rng(0), np.zeros(100_000, np.int64))
    in_category = int(items.starts[1])
    assert drawn.max() < in_category
    counts = np.sort(np.bincount(drawn, minlength=in_category))[::-1]
    expected = np.arange(1, in_category + 1) ** -0.9
    np.testing.assert_allclose(counts[:5] / 100_000, expected[:5] / expected.sum(), rtol=0.06)


def test_items_are_what_they_claim(items: Items):
    assert sorted(items.item_id) == list(range(1, 2_001))
    assert (np.diff(items.category) >= 0).all()
    assert np.array_equal(items.category[items.starts[:-1]], np.arange(len(items.starts) - 1))
    assert 0.05 < items.depth.min() < items.depth.max() < 0.5
    assert abs(items.appeal.std() - 1) < 0.25
    # A seller's items resemble each other.
    order = np.argsort(items.seller, kind="stable")
    neighbours = items.seller[order][1:] == items.seller[order][:-1]
    appeal = items.appeal[order]
    assert np.corrcoef(appeal[1:][neighbours], appeal[:-1][neighbours])[0, 1] > 0.2


def test_one_visit_of_a_pair_in_a_season(visits: Visits):
    inside = visits.phase != OUTSIDE
    keys = np.stack([visits.user, visits.item, visits.season], axis=1)[inside]
    assert len(np.unique(keys, axis=0)) == len(keys)
    assert (np.diff(visits.time_ms) >= 0).all()


def test_nobody_visits_before_arriving(visits: Visits, users: Users):
    assert (visits.time_ms >= users.arrival_ms[visits.user] - 1000).all()
    assert (users.arrival_ms > users.arrival_ms.min()).mean() == pytest.approx(0.4, abs=0.08)


@pytest.fixture(scope="module")
def x(visits: Visits, users: Users, items: Items, timeline: Timeline) -> dict[str, np.ndarray]:
    return outcomes.terms(np.random.default_rng(4), visits, users, items, timeline)


def test_calibration_reaches_the_rates(
    visits: Visits, x: dict[str, np.ndarray], timeline: Timeline
):
    config = SimulateConfig(direct_rate=0.03, cart_rate=0.1, confounding=2)
    p = outcomes.probabilities(visits, x, outcomes.calibrate(visits, x, timeline, config), 2)
    rows = timeline.in_window(visits.time_ms, visits.season)
    clicks = 1 / (1 - p.repeat[rows])
    direct, e, r1, r0 = p.direct[rows], p.propensity[rows], p.r1[rows], p.r0[rows]

    def mean(values: np.ndarray, weights: np.ndarray) -> float:
        return float((values * weights).sum() / weights.sum())

    assert mean(direct, clicks) == pytest.approx(0.03)
    assert mean(0.55 * direct + (1 - direct) * e, clicks) == pytest.approx(0.1)
    assert mean(r1, clicks * (1 - direct) * e) == pytest.approx(config.carted_bought_rate)
    assert mean(r0, clicks * (1 - direct) * (1 - e)) == pytest.approx(config.uncarted_bought_rate)


def test_calibration_needs_a_click_before_a_promotion(
    visits: Visits, x: dict[str, np.ndarray], timeline: Timeline
):
    outside = replace(visits, season=np.full(len(visits), -1))
    with pytest.raises(ConfigError, match="leaves no click before a promotion"):
        outcomes.calibrate(outside, x, timeline, SimulateConfig())


INTERCEPTS = {"direct": -4.0, "cart": -3.0, "carted": -3.0, "uncarted": -6.0} | (
    outcomes.SIGN_INTERCEPTS
)


def test_the_equations_by_hand(visits: Visits, x: dict[str, np.ndarray], users: Users):
    p = outcomes.probabilities(visits, x, INTERCEPTS, 1.0)
    row = int(np.flatnonzero(visits.phase == BEFORE)[0])
    user, item = visits.user[row], {name: float(values[row]) for name, values in x.items()}
    assert item["waiting"] == users.waiting[user]
    assert item["ramp_waiting"] == item["ramp"] * users.waiting[user]
    score = (
        1.2 * users.waiting[user]
        + 0.25 * users.intent[user]
        + 0.4 * visits.match[row]
        + 0.4 * item["appeal"]
        + 0.6 * item["discount"]
        + 0.4 * users.sensitivity[user] * item["discount"]
        - 0.3 * item["dear"]
    )
    assert p.r1[row] == pytest.approx(1 / (1 + np.exp(3.0 - score)))


def test_only_seasons_have_delayed_purchases(visits: Visits, x: dict[str, np.ndarray]):
    p = outcomes.probabilities(visits, x, INTERCEPTS, 1.0)
    before = visits.phase == BEFORE
    assert (p.r1[before] > 0).all()
    assert (p.r0[before] > 0).all()
    assert not p.r1[~before].any()
    assert not p.r0[~before].any()


def test_direct_purchases_vanish_at_the_deadline(visits: Visits, x: dict[str, np.ndarray]):
    late = replace(visits, time_ms=visits.deadline_ms - 10_000)
    assert not outcomes.probabilities(late, x, INTERCEPTS, 1.0).direct.any()
    early = replace(visits, time_ms=visits.deadline_ms - 30 * DAY_MS)
    middle = replace(visits, time_ms=visits.deadline_ms - 3_600_000)
    whole = outcomes.probabilities(early, x, INTERCEPTS, 1.0).direct
    np.testing.assert_allclose(
        outcomes.probabilities(middle, x, INTERCEPTS, 1.0).direct, 0.55 * whole
    )


def test_gamma_is_the_odds_ratio_of_the_hidden_trait(visits: Visits, x: dict[str, np.ndarray]):
    size = len(visits)
    low = outcomes.probabilities(visits, x | {"hidden": np.full(size, -0.5)}, INTERCEPTS, 4.0)
    high = outcomes.probabilities(visits, x | {"hidden": np.full(size, 0.5)}, INTERCEPTS, 4.0)
    np.testing.assert_allclose(np.exp(logit(high.propensity) - logit(low.propensity)), 4.0)
    season = visits.phase == BEFORE
    for arm in ("r1", "r0"):
        odds = logit(getattr(high, arm)[season]) - logit(getattr(low, arm)[season])
        np.testing.assert_allclose(np.exp(odds), 4.0)
    np.testing.assert_array_equal(high.direct, low.direct)
    none = outcomes.probabilities(visits, x, INTERCEPTS, 1.0)
    other = outcomes.probabilities(visits, x | {"hidden": -x["hidden"]}, INTERCEPTS, 1.0)
    for field in fields(none):
        np.testing.assert_array_equal(getattr(none, field.name), getattr(other, field.name))


def test_outcomes_come_at_their_probabilities():
    size = 200_000
    levels = {"direct": 0.3, "propensity": 0.4, "r1": 0.2, "r0": 0.05}
    signs = dict.fromkeys(("repeat", "micro", "favourite"), 0.0)
    p = outcomes.Probabilities(**{k: np.full(size, v) for k, v in (levels | signs).items()})
    drawn = outcomes.draw_outcomes(np.random.default_rng(0), p)
    direct, cart = drawn.direct, drawn.cart
    for sample, expected in (
        (direct, 0.3),
        (cart[direct], 0.55),
        (cart[~direct], 0.4),
        (drawn.delayed_if_carted, 0.2),
        (drawn.delayed_if_uncarted, 0.05),
        (drawn.delayed[~direct & cart], 0.2),
        (drawn.delayed[~direct & ~cart], 0.05),
        (drawn.delayed, 0.7 * (0.4 * 0.2 + 0.6 * 0.05)),
    ):
        error = np.sqrt(expected * (1 - expected) / len(sample))
        assert abs(sample.mean() - expected) < 4 * error
    assert not (drawn.delayed_if_uncarted & ~drawn.delayed_if_carted).any()
    assert not (drawn.delayed & direct).any()


def test_every_visit_ends_before_its_deadline_but_for_delayed_purchases(
    visits: Visits, x: dict[str, np.ndarray], timeline: Timeline
):
    rng = np.random.default_rng(5)
    # Many outcomes, so that all kinds of events meet all kinds of deadlines.
    often = dict.fromkeys(INTERCEPTS, 0.0) | {"repeat": 1.0}
    p = outcomes.probabilities(visits, x, often, 1.0)
    drawn = outcomes.draw_outcomes(rng, p)
    clicks = emission.draw_clicks(rng, visits, p.repeat)
    events = emission.draw_events(rng, visits, clicks, p, drawn, timeline)
    assert (np.diff(events.time_ms) >= 0).all()
    late = events.time_ms >= visits.deadline_ms[events.visit]
    assert late.any()
    assert drawn.delayed[events.visit[late]].all()
    on_days = timeline.locate(events.time_ms[late])
    assert (on_days[1] == DURING).all()
    assert np.array_equal(on_days[0], visits.season[events.visit[late]])

    # Decisions follow the last click, so that all clicks of a visit share them.
    decisions = ~late & (events.kind >= 4)
    assert (events.time_ms >= clicks.last_ms[events.visit])[decisions].all()
    bought = events.visit[~late & (events.kind == 5)]
    assert sorted(bought) == np.flatnonzero(drawn.direct).tolist()
    assert sorted(events.visit[late & (events.kind == 5)]) == np.flatnonzero(drawn.delayed).tolist()
    # In log order a cart comes before the purchase that it led to.
    carted = np.full(len(visits), -1)
    carted[events.visit[events.kind == 4]] = np.flatnonzero(events.kind == 4)
    assert (carted[events.visit] < np.arange(len(carted[events.visit])))[events.kind == 5].all()


def test_each_draw_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch):
    generator, keys = simulator._generator, []

    def record(seed: int, *key: int) -> np.random.Generator:
        keys.append(key)
        return generator(seed, *key)

    monkeypatch.setattr(simulator, "EVENTS_PER_CHUNK", 1_000)
    monkeypatch.setattr(simulator, "_generator", record)
    world = simulator.build_world(simulator.Config(simulate=SimulateConfig(events=3_000)))
    for chunk in range(world.chunks):
        simulator.draw_chunk(world, chunk)
    assert len(keys) == len(set(keys)) == 6
    firsts = {int(generator(1, *key).integers(2**62)) for key in keys}
    assert len(firsts) == len(keys)
