"""The replayed ad auction: who asks, which items bid, and what comes of showing some of them.

All of it is drawn once and shared by the policies; a policy only orders the candidates of each
request. See docs/abtest.md.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdcm.core.config import AbtestConfig
from cmdcm.core.errors import DataError
from cmdcm.datasets.simulation import Floats, Ints
from cmdcm.datasets.simulation.randomness import stream
from cmdcm.datasets.simulation.visits import draw_requests
from cmdcm.datasets.simulation.world import Response, World

REQUESTS, CANDIDATES, BIDS, RANDOM = range(100, 104)
"""Keys of the streams of an experiment, beyond those of a world."""

ASKED_SHARE = 0.5
"""Share of the candidates out of the category asked for; the others are what the user may like."""

SPARE = 3
"""Items that are drawn for each candidate, since a user meets an item once."""

METRICS = {
    "revenue": "advertising revenue: the bids of the conversions",
    "delayed_gmv": "delayed-conversion GMV: purchases on the promotion days, at their prices",
    "direct_gmv": "direct GMV: purchases before the promotion",
    "gmv": "overall GMV",
    "clicks": "clicks",
    "conversions": "conversions: clicks bought directly or on the promotion days",
}


@dataclass(frozen=True)
class Auctions:
    """Requests and their candidates.

    Attributes:
        user: [requests], positions in the world's users.
        time_ms: [requests], UTC.
        mood: [requests], the session's intent; no log shows it.
        item: [requests, candidates], positions in the world's items.
        bid: [requests, candidates], what the advertiser pays for a conversion.
    """

    user: Ints
    time_ms: Ints
    mood: Floats
    item: Ints
    bid: Floats


def draw_auctions(
    world: World,
    config: AbtestConfig,
    seed: int,
    days: npt.NDArray[np.datetime64],
    visited: Ints,
) -> Auctions:
    """Draws the auctions of an experiment, in the order of time.

    Requests come as they do in the world, in sessions of their own. The candidates of a request are
    drawn by popularity, `ASKED_SHARE` of them out of the category asked for, the others out of the
    user's favourites or any category, as the user's loyalty has it. No user meets an item twice.

    Args:
        world: The world.
        config: Sizes and bids.
        seed: Source of randomness.
        days: Local days of a pre-promotion window.
        visited: Numbers `user * items + item` of pairs that the log shows in this season. Their
            luck is in the log, so they are no candidates.

    Raises:
        DataError: No request on these days has enough candidates.
    """
    users, items, timeline = world.users, world.items, world.timeline
    sessions = world.sessions
    for attempt in range(3):
        rng = stream(seed, REQUESTS, attempt)
        requests = draw_requests(rng, users, items, timeline, sessions)
        season, _, _ = timeline.locate(requests.time_ms)
        held = timeline.in_window(requests.time_ms, season)
        held &= np.isin(timeline.calendar.local_days(requests.time_ms), days)
        found = np.flatnonzero(held)
        # Some requests fall away for lack of candidates.
        if len(found) >= 1.2 * config.requests:
            break
        sessions *= 1.5 * config.requests / max(len(found), 1)
    if len(found) > 1.2 * config.requests:
        found = rng.choice(found, round(1.2 * config.requests), replace=False)
    found = found[np.argsort(requests.time_ms[found], kind="stable")]

    rng = stream(seed, CANDIDATES)
    shape = (len(found), SPARE * config.candidates)
    user = requests.user[found]
    place = rng.integers(users.favourites.shape[1], size=shape)
    loyal = rng.random(shape) < users.loyalty[user][:, None]
    liked = np.where(
        loyal, users.favourites[user[:, None], place], items.draw_categories(rng, shape)
    )
    asked = rng.random(shape) < ASKED_SHARE
    category = np.where(asked, requests.category[found][:, None], liked)
    item = items.draw_within(rng, category.ravel()).reshape(shape)

    pair = (user[:, None] * len(items) + item).ravel()
    fresh = np.zeros(len(pair), bool)
    fresh[np.unique(pair, return_index=True)[1]] = True
    fresh = (fresh & ~np.isin(pair, visited)).reshape(shape)
    enough = np.flatnonzero(fresh.sum(axis=1) >= config.candidates)[: config.requests]
    if not len(enough):
        raise DataError(
            f"no request from {days[0]} to {days[-1]} finds {config.candidates} items that its "
            "user has not met: lower abtest.candidates or take a larger world"
        )
    first = np.argsort(~fresh[enough], axis=1, kind="stable")[:, : config.candidates]
    item = np.take_along_axis(item[enough], first, axis=1)
    spread = config.bid_spread
    noise = np.exp(spread * stream(seed, BIDS).standard_normal(len(items)) - spread**2 / 2)
    bid = config.bid_share * items.price * noise
    chosen = found[enough]
    return Auctions(user[enough], requests.time_ms[chosen], requests.mood[chosen], item, bid[item])


def first_slot(world: World, auctions: Auctions) -> tuple[Floats, Floats]:
    """Returns P(click) and P(conversion | click) of each candidate in the first slot, as it is.

    Both are [requests, candidates]. The second one is what a model predicts.
    """
    answer = _respond(world, auctions, auctions.item, np.zeros_like(auctions.item))
    p = answer.probabilities
    shape = auctions.item.shape
    return p.click.reshape(shape), (p.direct + p.delayed).reshape(shape)


def best(values: Floats, slots: int) -> Ints:
    """Returns [requests, slots]: the places of the largest values, largest first.

    Of equal values the first one comes first.

    Example:
        >>> best(np.array([[0.1, 0.3, 0.3, 0.2]]), 3).tolist()
        [[1, 2, 3]]
    """
    return np.argsort(-values, axis=1, kind="stable")[:, :slots]


def play(world: World, auctions: Auctions, shown: Ints) -> tuple[Floats, Floats]:
    """Shows items and books what comes of it.

    Args:
        world: The world, which answers.
        auctions: The auctions.
        shown: [requests, slots], places among the candidates, first slot first.

    Returns:
        The `METRICS` of each request, [requests, metrics]: as they happened, and as they are
        expected, with probabilities in place of draws.
    """
    item = np.take_along_axis(auctions.item, shown, axis=1)
    bid = np.take_along_axis(auctions.bid, shown, axis=1).ravel()
    slot = np.broadcast_to(np.arange(shown.shape[1]), shown.shape)
    answer = _respond(world, auctions, item, slot)
    p, outcomes = answer.probabilities, answer.outcomes

    def booked(clicked: Floats, direct: Floats, delayed: Floats) -> Floats:
        direct_gmv = clicked * direct * answer.price
        delayed_gmv = clicked * delayed * answer.promotion_price
        conversions = clicked * (direct + delayed)
        columns = {
            "revenue": conversions * bid,
            "delayed_gmv": delayed_gmv,
            "direct_gmv": direct_gmv,
            "gmv": direct_gmv + delayed_gmv,
            "clicks": clicked,
            "conversions": conversions,
        }
        values = np.stack([columns[name] for name in METRICS], axis=-1)
        return values.reshape(*shown.shape, len(METRICS)).sum(axis=1)

    happened = (
        part.astype(np.float64) for part in (answer.clicked, outcomes.direct, outcomes.delayed)
    )
    return booked(*happened), booked(p.click, p.direct, p.delayed)


def _respond(world: World, auctions: Auctions, item: Ints, slot: Ints) -> Response:
    """Answers for [requests, n] items, request by request."""
    each = item.shape[1]
    return world.respond(
        user=np.repeat(auctions.user, each),
        item=item.ravel(),
        time_ms=np.repeat(auctions.time_ms, each),
        mood=np.repeat(auctions.mood, each),
        position=slot.ravel(),
    )
