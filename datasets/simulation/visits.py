"""Who visits what and when: sessions of a user, and the visits to items in them.

A *visit* is all that a user does about one item in one season. The first click of a user on an item
in a season opens the only visit of the two there, so that no two visits compete for a label.
"""

from dataclasses import dataclass

import numpy as np

from cmdcm.datasets.simulation import Bools, Floats, Ints
from cmdcm.datasets.simulation.population import Items, Users
from cmdcm.datasets.simulation.timeline import OUTSIDE, Timeline

CATEGORY_FOCUS = 0.85
"""Share of a session's visits that stay in the session's category."""
SECONDS_BETWEEN_VISITS = 120.0


@dataclass(frozen=True)
class Visits:
    """Visits in the order of their first click, all arrays [visits].

    Attributes:
        user: Index into the users they were drawn for.
        item: Index into the items.
        time_ms: First click.
        season: Promotion whose season it is in, -1 outside of any.
        phase: `timeline.OUTSIDE`, `BEFORE` or `DURING`.
        deadline_ms: End of the phase.
        mood: The session's intent, standard normal; shared by the visits of a session.
        match: Whether the item's category is one of the user's favourites.
    """

    user: Ints
    item: Ints
    time_ms: Ints
    season: Ints
    phase: Ints
    deadline_ms: Ints
    mood: Floats
    match: Bools

    def __len__(self) -> int:
        return len(self.user)


def draw_visits(
    rng: np.random.Generator, users: Users, items: Items, timeline: Timeline, sessions: float
) -> Visits:
    """Draws the visits of `users`.

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
    gap = 1 + rng.exponential(SECONDS_BETWEEN_VISITS, len(session)).astype(np.int64)
    elapsed = np.cumsum(gap)
    elapsed -= elapsed[np.cumsum(size) - size][session]
    focused = rng.random(len(session)) < CATEGORY_FOCUS
    category = np.where(focused, theme[session], items.draw_categories(rng, len(session)))
    item = items.draw_within(rng, category)
    time_ms = opened[session] + 1000 * elapsed
    user, mood = user[session], mood[session]

    order = np.argsort(time_ms, kind="stable")
    order = order[time_ms[order] < timeline.end_ms]
    user, item, time_ms, mood = user[order], item[order], time_ms[order], mood[order]
    season, phase, deadline_ms = timeline.locate(time_ms)
    keep = _first_of_season(user, item, season, phase, len(items), len(timeline.seasons))
    user, item = user[keep], item[keep]
    return Visits(
        user=user,
        item=item,
        time_ms=time_ms[keep],
        season=season[keep],
        phase=phase[keep],
        deadline_ms=deadline_ms[keep],
        mood=mood[keep],
        match=(users.favourites[user] == items.category[item][:, None]).any(axis=1),
    )


def _first_of_season(
    user: Ints, item: Ints, season: Ints, phase: Ints, items: int, seasons: int
) -> Ints:
    """Positions of the visits outside of seasons, and of each pair's first in each season."""
    inside = np.flatnonzero(phase != OUTSIDE)
    pair = (user[inside] * items + item[inside]) * seasons + season[inside]
    _, first = np.unique(pair, return_index=True)
    return np.sort(np.concatenate([np.flatnonzero(phase == OUTSIDE), inside[first]]))
