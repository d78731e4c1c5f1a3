"""The replayed auction: what is drawn, by its properties; what is booked, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from cmdcm.core.config import AbtestConfig, load_config
from cmdcm.core.errors import DataError
from cmdcm.datasets.simulation.outcomes import Outcomes
from cmdcm.datasets.simulation.world import Response, World
from cmdcm.jobs.auction import METRICS, Auctions, best, draw_auctions, first_slot, play
from cmdcm.jobs.policies import window_days

CONFIG = AbtestConfig(requests=300, candidates=8, slots=3)


@pytest.fixture(scope="module")
def world() -> World:
    return World.open(load_config(overrides=["simulate.events=60000"]))


@pytest.fixture(scope="module")
def days(world) -> np.ndarray:
    return window_days(world.timeline.calendar, world.timeline.calendar.promotions[-1].name)


def draw(world, days, seed=1, visited=(), config=CONFIG) -> Auctions:
    return draw_auctions(world, config, seed, days, np.array(visited, np.int64))


class Shop:
    """A world of one user and three items whose answers are written down here.

    The slot s multiplies P(click) by 1 / (1 + s). Luck: a click where P(click) is above 0.3.
    """

    click = np.array([0.8, 0.5, 0.4])
    direct = np.array([0.1, 0.2, 0.0])
    delayed = np.array([0.3, 0.0, 0.5])
    bought_directly = np.array([False, True, False])
    bought_later = np.array([True, False, True])
    price = np.array([10.0, 20.0, 40.0])
    promotion_price = np.array([8.0, 15.0, 30.0])

    def respond(self, *, user, item, time_ms, mood, position):
        assert len(user) == len(item) == len(time_ms) == len(mood) == len(position)
        click = self.click[item] / (1 + position)
        p = SimpleNamespace(click=click, direct=self.direct[item], delayed=self.delayed[item])
        outcomes = Outcomes(
            direct=self.bought_directly[item],
            cart=np.zeros(len(item), bool),
            delayed_if_carted=self.bought_later[item],
            delayed_if_uncarted=self.bought_later[item],
        )
        price, promotion_price = self.price[item], self.promotion_price[item]
        return Response(p, click > 0.3, outcomes, price, promotion_price)  # type: ignore[arg-type]


AUCTION = Auctions(
    user=np.array([0]),
    time_ms=np.array([0]),
    mood=np.array([0.0]),
    item=np.array([[2, 0, 1]]),
    bid=np.array([[4.0, 1.0, 2.0]]),
)


def test_a_small_auction_by_hand():
    # Item 2 bids 4: shown first it is clicked, and bought on the promotion days for 30. Item 1 bids
    # 2: in the second slot it is clicked with probability 0.25 and so is not.
    happened, expected = play(Shop(), AUCTION, np.array([[0, 2]]))  # type: ignore[arg-type]
    assert dict(zip(METRICS, happened[0], strict=True)) == {
        "revenue": 4.0,
        "delayed_gmv": 30.0,
        "direct_gmv": 0.0,
        "gmv": 30.0,
        "clicks": 1.0,
        "conversions": 1.0,
    }
    first, second = 0.4 * 0.5, 0.25 * 0.2
    assert dict(zip(METRICS, expected[0], strict=True)) == pytest.approx(
        {
            "revenue": 4 * first + 2 * second,
            "delayed_gmv": 30 * first,
            "direct_gmv": 20 * second,
            "gmv": 30 * first + 20 * second,
            "clicks": 0.4 + 0.25,
            "conversions": first + second,
        }
    )


def test_another_order_is_another_day_in_the_shop():
    happened, _ = play(Shop(), AUCTION, np.array([[2, 1]]))  # type: ignore[arg-type]
    # Item 1 first: clicked and bought at once for 20; item 0 second: clicked (0.4), bought later.
    assert happened[0].tolist() == [2.0 + 1.0, 8.0, 20.0, 28.0, 2.0, 2.0]


def test_the_first_slot_tells_what_models_predict():
    click, conversion = first_slot(Shop(), AUCTION)  # type: ignore[arg-type]
    assert click.tolist() == [[0.4, 0.8, 0.5]]
    assert conversion.tolist() == [[0.5, 0.4, 0.2]]
    # Bid times both: 0.8, 0.32, 0.2.
    assert best(AUCTION.bid * click * conversion, 2).tolist() == [[0, 1]]


def test_an_auction_keeps_its_promises(world, days):
    auctions = draw(world, days)
    shape = (CONFIG.requests, CONFIG.candidates)
    assert auctions.item.shape == auctions.bid.shape == shape
    assert (np.diff(auctions.time_ms) >= 0).all()
    calendar = world.timeline.calendar
    assert set(calendar.local_days(auctions.time_ms)) <= set(days)
    assert calendar.promotions[-1].pre_promotion_start_ms <= auctions.time_ms.min()
    assert auctions.time_ms.max() < calendar.promotions[-1].promotion_start_ms
    pairs = auctions.user[:, None] * len(world.items) + auctions.item
    assert len(np.unique(pairs)) == pairs.size
    # One bid an item, in proportion to its price.
    share = auctions.bid / world.items.price[auctions.item]
    by_item = dict(zip(auctions.item.ravel(), share.ravel(), strict=True))
    assert all(by_item[i] == s for i, s in zip(auctions.item.ravel(), share.ravel(), strict=True))
    values = np.array(list(by_item.values()))
    assert np.log(values).std() == pytest.approx(CONFIG.bid_spread, rel=0.2)
    assert values.mean() == pytest.approx(CONFIG.bid_share, rel=0.2)


def test_candidates_are_popular_and_what_the_user_likes(world, days):
    auctions = draw(world, days)
    chance = np.random.default_rng(0).integers(len(world.items), size=auctions.item.shape)
    popularity = np.diff(world.items.mass)
    assert popularity[auctions.item].mean() > 1.5 * popularity[chance].mean()

    def liked(item):
        favourites = world.users.favourites[auctions.user][:, None]
        return (world.items.category[item][..., None] == favourites).any(axis=-1).mean()

    assert liked(auctions.item) > 1.5 * liked(chance)


def test_the_seed_decides(world, days):
    one, same, other = draw(world, days), draw(world, days), draw(world, days, seed=2)
    for name in ("user", "time_ms", "mood", "item", "bid"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.item, other.item)
    assert not np.array_equal(one.bid, other.bid)


def test_pairs_that_the_log_shows_are_no_candidates(world, days):
    auctions = draw(world, days)
    pairs = auctions.user[:, None] * len(world.items) + auctions.item
    visited = pairs[:, :2].ravel()
    again = draw(world, days, visited=visited)
    left = again.user[:, None] * len(world.items) + again.item
    assert not np.isin(left, visited).any()
    assert np.isin(left, pairs).mean() > 0.3


def test_the_days_may_be_some_of_the_window(world, days):
    some = draw(world, days[-2:])
    assert set(world.timeline.calendar.local_days(some.time_ms)) == set(days[-2:])
    assert len(some.user) == CONFIG.requests


def test_a_world_with_too_few_items_is_refused(world, days):
    with pytest.raises(DataError, match=r"lower abtest.candidates"):
        draw(world, days, config=AbtestConfig(requests=10, candidates=5_000))


def test_of_equal_values_the_first_comes_first():
    assert best(np.array([[1.0, 2.0, 2.0, 1.0]]), 4).tolist() == [[1, 2, 0, 3]]


def test_what_happens_is_what_is_expected_on_average(world, days):
    auctions = draw(world, days, config=AbtestConfig(requests=800, candidates=8, slots=3))
    shown = np.tile(np.arange(8), (len(auctions.user), 1))
    happened, expected = (
        dict(zip(METRICS, values.sum(axis=0), strict=True))
        for values in play(world, auctions, shown)
    )
    for name in ("clicks", "conversions"):
        # Of independent draws, the variance is at most the mean.
        assert expected[name] > 10
        assert abs(happened[name] - expected[name]) < 4 * np.sqrt(expected[name])
    assert expected["gmv"] == pytest.approx(expected["direct_gmv"] + expected["delayed_gmv"])
    assert min(expected.values()) > 0


def test_the_oracle_earns_more_than_whoever_errs(world, days):
    auctions = draw(world, days)
    click, conversion = first_slot(world, auctions)
    rng = np.random.default_rng(0)

    def revenue(noise: float) -> float:
        predicted = conversion * np.exp(noise * rng.standard_normal(conversion.shape))
        shown = best(auctions.bid * click * predicted, CONFIG.slots)
        return float(play(world, auctions, shown)[1][:, list(METRICS).index("revenue")].sum())

    earned = [revenue(noise) for noise in (0, 0.5, 1, 2)]
    assert earned == sorted(earned, reverse=True)
    assert earned[0] > 1.05 * earned[2]
