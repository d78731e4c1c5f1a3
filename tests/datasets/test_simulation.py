"""The parts of the simulated world against hand-made numbers and independent formulas."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import Config, SimulateConfig, load_config
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import DAY_MS, to_ms
from cmdcm.datasets.simulation import Floats, Ints, emission, randomness
from cmdcm.datasets.simulation.calibration import calibrate
from cmdcm.datasets.simulation.delays import CART, REFUND, REPEAT, RETURN, SIGN, Delay
from cmdcm.datasets.simulation.equations import (
    Equations,
    Probabilities,
    Terms,
    all_terms,
    draw_drift,
)
from cmdcm.datasets.simulation.outcomes import draw_outcomes
from cmdcm.datasets.simulation.population import Items, Users, draw_items, draw_users
from cmdcm.datasets.simulation.timeline import BEFORE, DURING, OUTSIDE, Timeline, build_timeline
from cmdcm.datasets.simulation.visits import (
    Visits,
    choose_items,
    draw_meetings,
    draw_requests,
    first_of_season,
)

ZONE = "Asia/Shanghai"
DIRECT = Equations(SimulateConfig(), {}, {}).direct_delay


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return build_timeline(config_of("years=1"))


@pytest.fixture(scope="module")
def items() -> Items:
    return draw_items(np.random.default_rng(1), 2_000)


@pytest.fixture(scope="module")
def users(timeline: Timeline, items: Items) -> Users:
    return draw_users(np.random.default_rng(2), 500, SimulateConfig(), timeline, items)


@pytest.fixture(scope="module")
def visits(timeline: Timeline, items: Items, users: Users) -> Visits:
    rng = np.random.default_rng(3)
    requests = draw_requests(rng, users, items, timeline, 20_000)
    meetings = draw_meetings(rng, requests, users, items, timeline, 0)
    everything = np.ones(len(meetings), bool)
    return meetings.take(first_of_season(meetings, everything, len(items), 3))


@pytest.fixture(scope="module")
def keys(visits: Visits) -> randomness.Keys:
    return randomness.visit_keys(4, visits.user, visits.item, visits.occasion)


def config_of(*overrides: str) -> Config:
    return load_config(overrides=[f"simulate.{override}" for override in overrides])


def instants(*local: str) -> Ints:
    return np.array([to_ms(time, ZONE) for time in local], np.int64)


def logit(p: Floats) -> Floats:
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
    timeline = build_timeline(config_of("years=1", "promotions=['double11', 'black_friday']"))
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


@pytest.mark.parametrize("delay", [REPEAT, SIGN, CART, DIRECT, RETURN, REFUND])
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
def x(
    visits: Visits, users: Users, items: Items, timeline: Timeline, keys: randomness.Keys
) -> Terms:
    return all_terms(visits, users, items, timeline, keys)


def test_calibration_reaches_the_rates(visits: Visits, x: Terms, timeline: Timeline):
    config = SimulateConfig(
        direct_rate=0.03, cart_rate=0.1, confounding=2, micro_rate=0.2, favourite_rate=0.01
    )
    equations = calibrate(Equations(config, {"click": 0.0}, {}), visits, x, timeline)
    p = equations.probabilities(visits, x)
    rows = timeline.in_window(visits.time_ms, visits.season)
    clicks = 1 / (1 - p.repeat[rows])
    direct, e, r1, r0 = p.direct[rows], p.propensity[rows], p.r1[rows], p.r0[rows]

    def mean(values: Floats, weights: Floats) -> float:
        return float((values * weights).sum() / weights.sum())

    assert mean(direct, clicks) == pytest.approx(0.03)
    assert mean(p.cart[rows], clicks) == pytest.approx(0.1)
    assert mean(0.55 * direct + (1 - direct) * e, clicks) == pytest.approx(0.1)
    assert mean(r1, clicks * (1 - direct) * e) == pytest.approx(config.carted_bought_rate)
    assert mean(r0, clicks * (1 - direct) * (1 - e)) == pytest.approx(config.uncarted_bought_rate)
    assert mean(p.refund[rows], clicks * direct) == pytest.approx(config.refund_rate)
    assert mean(p.micro[rows], clicks) == pytest.approx(0.2)
    assert p.favourite[rows].sum() == pytest.approx(0.01 * clicks.sum())


def test_calibration_needs_a_click_before_a_promotion(visits: Visits, x: Terms, timeline: Timeline):
    outside = replace(visits, season=np.full(len(visits), -1))
    with pytest.raises(ConfigError, match="leaves no click before a promotion"):
        calibrate(Equations(SimulateConfig(), {}, {}), outside, x, timeline)


INTERCEPTS = {
    "click": -2.0,
    "direct": -4.0,
    "cart": -3.0,
    "carted": -3.0,
    "uncarted": -6.0,
    "refund": -3.0,
    "repeat": -2.0,
    "micro": -2.6,
    "favourite": -4.2,
}


def equations_of(intercepts: dict[str, float] = INTERCEPTS, **settings: float) -> Equations:
    return Equations(SimulateConfig(**settings), intercepts, {})


def test_the_equations_by_hand(visits: Visits, x: Terms, users: Users, items: Items):
    p = equations_of().probabilities(visits, x)
    row = int(np.flatnonzero(visits.phase == BEFORE)[0])
    user, item = visits.user[row], visits.item[row]
    sensitivity, waiting = users.sensitivity[user], users.waiting[user]
    kind = {"618": 0.0, "double11": 0.3, "double12": -0.3}[
        ("618", "double11", "double12")[visits.season[row]]
    ]
    log_price = (np.log(items.price[item]) - 4) / np.sqrt(0.7**2 + 0.6**2)
    score = (
        -0.4 * log_price
        + 0.4 * items.taste[item]
        + kind
        + 1.2 * waiting
        + 0.25 * users.intent[user]
        + 0.4 * visits.match[row]
        + 0.4 * items.appeal[item]
        + (0.6 + 0.4 * sensitivity) * items.discount[item]
        - 0.3 * np.exp(0.4 * sensitivity) * items.price_level[item]
    )
    assert p.r1[row] == pytest.approx(1 / (1 + np.exp(3.0 - score)))
    assert x["ramp_waiting"][row] == x["ramp"][row] * waiting
    refund = 0.3 * log_price + 0.3 * sensitivity - 0.4 * items.appeal[item]
    assert p.refund[row] == pytest.approx(1 / (1 + np.exp(3.0 - refund)))
    reduced = refund + 0.4 + 0.3 * items.discount[item]
    assert p.refund_delayed[row] == pytest.approx(1 / (1 + np.exp(3.0 - reduced)))


def test_settings_scale_what_they_say(visits: Visits, x: Terms):
    plain, season = equations_of(), visits.season
    without = plain.score("cart", x, season)
    wide = equations_of(propensity_spread=2.5).score("cart", x, season)
    np.testing.assert_allclose(wide, 2.5 * without, atol=1e-12)
    measured = -0.5 * x["price"] + 0.5 * x["taste"] + 0.7 * x["ramp"] + 0.5 * x["ramp_kind"]
    np.testing.assert_allclose(
        equations_of(hidden_selection=0).score("cart", x, season), measured, atol=1e-12
    )
    # A promotion without effect leaves what an ordinary day has.
    flat = equations_of(promotion_effect=0).score("carted", x, season)
    ordinary = (
        -0.4 * x["price"]
        + 0.4 * x["taste"]
        + 0.25 * x["intent"]
        + 0.4 * x["match"]
        + 0.4 * x["appeal"]
        - 0.3 * x["dear"]
    )
    np.testing.assert_allclose(flat, ordinary, atol=1e-12)
    for name in ("carted", "uncarted", "direct"):
        np.testing.assert_array_equal(
            equations_of(propensity_spread=2.5, hidden_selection=0).score(name, x, season),
            plain.score(name, x, season),
        )


def test_drift_wanders_from_promotion_to_promotion(visits: Visits, x: Terms):
    assert draw_drift(np.random.default_rng(0), 0.0, 3) == {}
    long = draw_drift(np.random.default_rng(0), 0.4, 4_000)["direct"]["intent"]
    assert long.mean() == pytest.approx(0, abs=1e-9)
    assert np.diff(long[:-1]).std() == pytest.approx(0.4, rel=0.05)
    assert long[-1] == 0

    drift = draw_drift(np.random.default_rng(0), 0.4, 3)
    assert "hidden" not in drift["cart"]
    moved = Equations(SimulateConfig(), INTERCEPTS, drift)
    row = int(np.flatnonzero(visits.season == 1)[0])
    expected = drift["cart"]["intercept"][1] + sum(
        coefficient * (1 + drift["cart"][term][1]) * x[term][row]
        for term, coefficient in moved.coefficients("cart").items()
    )
    assert moved.score("cart", x, visits.season)[row] == pytest.approx(expected)
    outside = visits.season < 0
    assert outside.any()
    np.testing.assert_array_equal(
        moved.score("direct", x, visits.season)[outside],
        equations_of().score("direct", x, visits.season)[outside],
    )


def test_only_seasons_have_delayed_purchases(visits: Visits, x: Terms):
    p = equations_of().probabilities(visits, x)
    before = visits.phase == BEFORE
    assert (p.r1[before] > 0).all()
    assert (p.r0[before] > 0).all()
    assert not p.r1[~before].any()
    assert not p.r0[~before].any()


def test_direct_purchases_vanish_at_the_deadline(visits: Visits, x: Terms):
    late = replace(visits, time_ms=visits.deadline_ms - 10_000)
    assert not equations_of().probabilities(late, x).direct.any()
    early = replace(visits, time_ms=visits.deadline_ms - 30 * DAY_MS)
    middle = replace(visits, time_ms=visits.deadline_ms - 3_600_000)
    whole = equations_of().probabilities(early, x).direct
    np.testing.assert_allclose(equations_of().probabilities(middle, x).direct, 0.55 * whole)
    # The delays are a setting.
    config = SimulateConfig(direct_delays=((1_800, 0.0), (7_200, 1.0)))
    other = Equations(config, INTERCEPTS, {}).probabilities(middle, x).direct
    np.testing.assert_allclose(other, 0.5 * whole)


def test_gamma_is_the_odds_ratio_of_the_hidden_trait(visits: Visits, x: Terms):
    size = len(visits)
    confounded = equations_of(confounding=4.0)
    low = confounded.probabilities(visits, x | {"hidden": np.full(size, -0.5)})
    high = confounded.probabilities(visits, x | {"hidden": np.full(size, 0.5)})
    np.testing.assert_allclose(np.exp(logit(high.propensity) - logit(low.propensity)), 4.0)
    season = visits.phase == BEFORE
    for arm in ("r1", "r0"):
        odds = logit(getattr(high, arm)[season]) - logit(getattr(low, arm)[season])
        np.testing.assert_allclose(np.exp(odds), 4.0)
    np.testing.assert_array_equal(high.direct, low.direct)
    # Given all but the trait, the odds of carting are between the two, so within Gamma of each.
    given = logit((low.propensity + high.propensity) / 2)
    for one in (low, high):
        ratio = np.exp(logit(one.propensity) - given)
        assert (ratio > 1 / 4.0).all()
        assert (ratio < 4.0).all()
    none = equations_of().probabilities(visits, x)
    other = equations_of().probabilities(visits, x | {"hidden": -x["hidden"]})
    for field in fields(none):
        np.testing.assert_array_equal(getattr(none, field.name), getattr(other, field.name))


def test_outcomes_come_at_their_probabilities():
    size = 200_000
    levels = {"direct": 0.3, "propensity": 0.4, "r1": 0.2, "r0": 0.05}
    values = dict.fromkeys([field.name for field in fields(Probabilities)], 0.0) | levels
    p = Probabilities(**{name: np.full(size, value) for name, value in values.items()})
    numbers = np.arange(size)
    keys = randomness.visit_keys(1, numbers // 300, numbers % 300, np.zeros(size, np.int64))
    drawn = draw_outcomes(keys, p, 0.55)
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


def test_numbers_of_visits_are_uniform_and_unlike():
    user, item, season = np.meshgrid(np.arange(100), np.arange(100), np.arange(-1, 9))
    grid = (user.ravel(), item.ravel(), season.ravel())
    keys = randomness.visit_keys(7, *grid)
    assert len(np.unique(keys)) == len(keys)
    draws = [randomness.uniform(keys, purpose) for purpose in range(5)]
    draws.append(randomness.uniform(randomness.visit_keys(8, *grid), 0))
    for draw in draws:
        assert draw.min() >= 0
        assert draw.max() < 1
        counts = np.histogram(draw, 20, (0, 1))[0] / len(draw)
        np.testing.assert_allclose(counts, 0.05, atol=4 * np.sqrt(0.05 * 0.95 / len(draw)))
    related = np.corrcoef([*draws, *(part.astype(float) for part in grid)])
    assert np.abs(related - np.eye(len(related))).max() < 4 / np.sqrt(len(keys))


def test_requests_show_different_items_the_appealing_ones_first(items: Items):
    small = int(np.argmin(np.diff(items.starts)))
    category = np.append(np.arange(40).repeat(50), [small])
    shown = choose_items(np.random.default_rng(0), items, category, 5)
    assert shown.shape == (2001, 5)
    filled = shown >= 0
    assert (items.category[shown] == category[:, None])[filled].all()
    for row in shown:
        assert len(set(row[row >= 0])) == (row >= 0).sum()
    assert (np.diff(filled.astype(int), axis=1) <= 0).all()
    appeal = [items.appeal[shown[:, slot][filled[:, slot]]].mean() for slot in range(5)]
    assert appeal[0] > appeal[2] > appeal[4]


def test_every_visit_ends_before_its_deadline_but_for_delayed_purchases(
    visits: Visits, x: Terms, keys: randomness.Keys, timeline: Timeline
):
    rng = np.random.default_rng(5)
    # Many outcomes, so that all kinds of events meet all kinds of deadlines.
    often = dict.fromkeys(INTERCEPTS, 0.0) | {"repeat": 1.0}
    p = equations_of(often).probabilities(visits, x)
    drawn = draw_outcomes(keys, p, 0.55)
    clicks = emission.draw_clicks(rng, visits, p.repeat)
    rows = np.arange(len(visits))
    events = emission.draw_events(rng, visits, rows, clicks, p, drawn, timeline, DIRECT)
    assert (np.diff(events.time_ms) >= 0).all()
    refunded = events.kind == 6
    late = ~refunded & (events.time_ms >= visits.deadline_ms[events.meeting])
    assert late.any()
    assert drawn.delayed[events.meeting[late]].all()
    on_days = timeline.locate(events.time_ms[late])
    assert (on_days[1] == DURING).all()
    assert np.array_equal(on_days[0], visits.season[events.meeting[late]])

    # Decisions follow the last click, so that all clicks of a visit share them.
    decisions = ~late & np.isin(events.kind, [4, 5])
    assert (events.time_ms >= clicks.last_ms[events.meeting])[decisions].all()
    purchases = events.kind == 5
    assert sorted(events.meeting[~late & purchases]) == np.flatnonzero(drawn.direct).tolist()
    assert sorted(events.meeting[late & purchases]) == np.flatnonzero(drawn.delayed).tolist()
    # In log order a cart comes before the purchase that it led to.
    carted = np.full(len(visits), -1)
    carted[events.meeting[events.kind == 4]] = np.flatnonzero(events.kind == 4)
    assert (carted[events.meeting] < np.arange(len(events.kind)))[purchases].all()

    # At most one refund of each purchase, after it and at its price.
    bought = np.full(len(visits), -1)
    bought[events.meeting[purchases]] = np.flatnonzero(purchases)
    paid = bought[events.meeting[refunded]]
    assert 0 < len(paid) == len(set(paid)) < purchases.sum()
    assert (paid >= 0).all()
    waited = (events.time_ms[refunded] - events.time_ms[paid]) / DAY_MS
    assert 0.2 < waited.min() < waited.max() <= 25
    assert np.array_equal(events.reduced[refunded], events.reduced[paid])
    assert events.reduced[paid].any()
    assert not events.reduced[paid].all()


def test_refunds_come_at_their_probability(
    visits: Visits, x: Terms, keys: randomness.Keys, timeline: Timeline
):
    rng = np.random.default_rng(6)
    rare = INTERCEPTS | {"direct": 0.0, "repeat": -9.0}
    p = equations_of(rare).probabilities(visits, x)
    drawn = draw_outcomes(keys, p, 0.55)
    clicks = emission.draw_clicks(rng, visits, p.repeat)
    rows = np.arange(len(visits))
    events = emission.draw_events(rng, visits, rows, clicks, p, drawn, timeline, DIRECT)
    # A purchase in the last 25 days may be refunded after the period.
    early = visits.time_ms < timeline.end_ms - 40 * DAY_MS
    refunds = early[events.meeting[events.kind == 6]].sum()
    expected = p.refund[early & drawn.direct].sum()
    expected += p.refund_delayed[early & drawn.delayed].sum()
    assert abs(refunds - expected) < 4 * np.sqrt(expected)
    assert expected > 100
