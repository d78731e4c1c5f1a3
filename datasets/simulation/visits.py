"""Who visits what and when: sessions of a user, requests in them, and the items that are met.

A *visit* is all that a user does about one item in one season. The first click of a user on an item
in a season opens the only visit of the two there, so that no two visits compete for a label.

A session is a series of requests. Without impressions, a request finds one item, which is clicked.
With them it shows some items that the logging policy chose, and what is clicked becomes a visit.
"""

from dataclasses import dataclass, fields

import numpy as np

from cmdcm.datasets.simulation import Bools, Floats, Ints
from cmdcm.datasets.simulation.population import Items, Users
from cmdcm.datasets.simulation.timeline import OUTSIDE, Timeline

CATEGORY_FOCUS = 0.85
"""Share of a session's requests that stay in the session's category."""
SECONDS_BETWEEN_REQUESTS = 120.0
CANDIDATES = 2
"""Items that the logging policy chooses from, for each item that it shows."""
POLICY_NOISE = 0.7
"""Scale of the logging policy's Gumbel noise; its score of an item is the item's appeal."""


@dataclass(frozen=True)
class Requests:
    """What users ask for, all arrays [requests].

    Attributes:
        user: Index into the users they were drawn for.
        time_ms: When.
        mood: The session's intent, standard normal; shared by the requests of a session.
        category: The category asked for.
    """

    user: Ints
    time_ms: Ints
    mood: Floats
    category: Ints


@dataclass(frozen=True)
class Visits:
    """Visits, or items that were shown and may become one; all arrays [visits].

    Attributes:
        user: Index into the users they were drawn for.
        item: Index into the items.
        time_ms: First click.
        season: Promotion whose season it is in, -1 outside of any.
        phase: `timeline.OUTSIDE`, `BEFORE` or `DURING`.
        deadline_ms: End of the phase.
        mood: The session's intent.
        match: Whether the item's category is one of the user's favourites.
        request: Number of the request that showed the item.
        request_ms: When.
        position: Slot, 0-based; -1 where nothing was shown.
    """

    user: Ints
    item: Ints
    time_ms: Ints
    season: Ints
    phase: Ints
    deadline_ms: Ints
    mood: Floats
    match: Bools
    request: Ints
    request_ms: Ints
    position: Ints

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Ints) -> "Visits":
        """Returns the visits at `rows`."""
        return Visits(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def occasion(self) -> Ints:
        """What tells the visits of a user to an item apart: the season, or the time outside."""
        return np.where(self.season < 0, self.time_ms, self.season)


def visits_at(
    users: Users,
    items: Items,
    timeline: Timeline,
    *,
    user: Ints,
    item: Ints,
    time_ms: Ints,
    mood: Floats,
    request: Ints,
    request_ms: Ints,
    position: Ints,
) -> Visits:
    """Returns what a visit is by the season of its time, and by its user and item."""
    season, phase, deadline_ms = timeline.locate(time_ms)
    return Visits(
        user=user,
        item=item,
        time_ms=time_ms,
        season=season,
        phase=phase,
        deadline_ms=deadline_ms,
        mood=mood,
        match=(users.favourites[user] == items.category[item][:, None]).any(axis=1),
        request=request,
        request_ms=request_ms,
        position=position,
    )


def draw_requests(
    rng: np.random.Generator, users: Users, items: Items, timeline: Timeline, sessions: float
) -> Requests:
    """Draws the requests of `users`, session by session.

    Args:
        rng: Source of randomness.
        users: Any users of the world.
        items: All items of the world.
        timeline: The period.
        sessions: Expected number of sessions of all users of the world.
    """
    count = rng.poisson(users.sessions * sessions)
    user = np.repeat(np.arange(len(users)), count)
    opened = timeline.traffic_between(
        users.arrival_ms[user], np.full(len(user), timeline.end_ms), rng.random(len(user))
    )
    mood = rng.standard_normal(len(user))
    favourite = users.favourites[user, rng.integers(users.favourites.shape[1], size=len(user))]
    loyal = rng.random(len(user)) < users.loyalty[user]
    theme = np.where(loyal, favourite, items.draw_categories(rng, len(user)))

    size = 1 + rng.poisson(np.exp(0.5 + 0.3 * mood))
    session = np.repeat(np.arange(len(user)), size)
    gap = 1 + rng.exponential(SECONDS_BETWEEN_REQUESTS, len(session)).astype(np.int64)
    elapsed = np.cumsum(gap)
    elapsed -= elapsed[np.cumsum(size) - size][session]
    focused = rng.random(len(session)) < CATEGORY_FOCUS
    category = np.where(focused, theme[session], items.draw_categories(rng, len(session)))
    time_ms = opened[session] + 1000 * elapsed
    return Requests(user=user[session], time_ms=time_ms, mood=mood[session], category=category)


def draw_meetings(
    rng: np.random.Generator,
    requests: Requests,
    users: Users,
    items: Items,
    timeline: Timeline,
    impressions: int,
) -> Visits:
    """Draws the items that users meet, in the order of the time at which they may click.

    Args:
        rng: Source of randomness.
        requests: What they ask for.
        users: The users of the requests.
        items: All items of the world.
        timeline: The period.
        impressions: Items that a request shows; 0 where a user finds one on his own.
    """
    if impressions:
        shown = choose_items(rng, items, requests.category, impressions)
        request, position = np.nonzero(shown >= 0)
        item = shown[request, position]
        time_ms = click_time(requests.time_ms[request], position)
    else:
        request = np.arange(len(requests.user))
        position = np.full(len(request), -1)
        item, time_ms = items.draw_within(rng, requests.category), requests.time_ms

    order = np.argsort(time_ms, kind="stable")
    order = order[time_ms[order] < timeline.end_ms]
    request = request[order]
    return visits_at(
        users,
        items,
        timeline,
        user=requests.user[request],
        item=item[order],
        time_ms=time_ms[order],
        mood=requests.mood[request],
        request=request,
        request_ms=requests.time_ms[request],
        position=position[order],
    )


def click_time(request_ms: Ints, position: Ints) -> Ints:
    """Returns when a slot is clicked, if it is: users read from the first one on."""
    return request_ms + 1000 * (2 + 3 * position)


def choose_items(rng: np.random.Generator, items: Items, category: Ints, impressions: int) -> Ints:
    """The logging policy: the most appealing of some popular items, as it sees them, come first.

    Args:
        rng: Source of randomness.
        items: All items.
        category: [requests], the categories asked for.
        impressions: Slots of a request.

    Returns:
        [requests, impressions], items; -1 for an empty slot, the last ones, where a small category
        has too few different candidates.
    """
    width = CANDIDATES * impressions
    drawn = items.draw_within(rng, np.repeat(category, width)).reshape(-1, width)
    drawn.sort(axis=1)
    score = items.appeal[drawn] + rng.gumbel(0.0, POLICY_NOISE, drawn.shape)
    again = np.zeros(drawn.shape, bool)
    again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
    score[again] = -np.inf
    best = np.argsort(-score, axis=1, kind="stable")[:, :impressions]
    shown = np.take_along_axis(drawn, best, axis=1)
    shown[np.take_along_axis(again, best, axis=1)] = -1
    return shown


def first_of_season(meetings: Visits, clicked: Bools, items: int, seasons: int) -> Ints:
    """Returns the positions of the clicks that open a visit.

    Those are all outside of seasons, and each pair's first one in each season.

    Args:
        meetings: What users met, in the order of time.
        clicked: What they would click.
        items: Number of items of the world.
        seasons: Number of promotions.
    """
    outside = np.flatnonzero(clicked & (meetings.phase == OUTSIDE))
    inside = np.flatnonzero(clicked & (meetings.phase != OUTSIDE))
    pair = (meetings.user[inside] * items + meetings.item[inside]) * seasons
    _, first = np.unique(pair + meetings.season[inside], return_index=True)
    return np.sort(np.concatenate([outside, inside[first]]))
