"""The world as a whole: everybody and everything in it, and the equations that answer for them."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cmdcm.core.config import Config, SimulateConfig
from cmdcm.datasets.simulation import Bools, Floats, Ints
from cmdcm.datasets.simulation.calibration import calibrate, calibrate_clicks
from cmdcm.datasets.simulation.emission import Clicks, Events, draw_clicks, draw_events
from cmdcm.datasets.simulation.equations import (
    Equations,
    Probabilities,
    Terms,
    all_terms,
    click_terms,
    draw_drift,
)
from cmdcm.datasets.simulation.outcomes import Outcomes, draw_outcomes
from cmdcm.datasets.simulation.population import Items, Users, draw_items, draw_users
from cmdcm.datasets.simulation.randomness import (
    CLICK,
    DRIFT,
    ITEMS,
    PILOT,
    USERS,
    Keys,
    stream,
    uniform,
    visit_keys,
)
from cmdcm.datasets.simulation.timeline import Timeline, build_timeline
from cmdcm.datasets.simulation.visits import (
    Visits,
    click_time,
    draw_meetings,
    draw_requests,
    first_of_season,
    visits_at,
)

FEWEST_ITEMS = 100
PILOT_EVENTS = 150_000
"""Events from which the intercepts and the number of sessions are found."""
PILOT_IMPRESSIONS = 10
"""Slots of the requests from which the intercept of clicks is found where the log has none."""


class Drawn(NamedTuple):
    """What some users did; `rows` are the positions of the `visits` among the `meetings`."""

    meetings: Visits
    rows: Ints
    visits: Visits
    probabilities: Probabilities
    outcomes: Outcomes
    clicks: Clicks
    events: Events


@dataclass(frozen=True)
class Response:
    """What the world answers where users are shown items, all arrays [n].

    Attributes:
        probabilities: The true probabilities.
        clicked: Whether the user clicks.
        outcomes: What comes of it if he does.
        price: Ordinary price, of a direct purchase before the promotion.
        promotion_price: Price on the promotion days.
    """

    probabilities: Probabilities
    clicked: Bools
    outcomes: Outcomes
    price: Floats
    promotion_price: Floats


@dataclass(frozen=True)
class World:
    """Users, items, the period, and the equations; build it with `World.open`.

    Attributes:
        config: The settings.
        seed: The one source of randomness.
        timeline: Period, seasons, traffic.
        items: All items; `items.item_id` are their public identifiers.
        users: All users; the identifier of a user is `users.index` + 1.
        equations: The structural equations with their intercepts.
        sessions: Expected number of sessions of all users together.
    """

    config: SimulateConfig
    seed: int
    timeline: Timeline
    items: Items
    users: Users
    equations: Equations
    sessions: float

    @classmethod
    def open(cls, config: Config) -> "World":
        """Draws items and users, and solves for intercepts and traffic on a pilot of the users.

        Args:
            config: Its seed, `simulate` section and calendar make the world.

        Raises:
            ConfigError: Settings that make no world, such as an unknown promotion.
        """
        settings = config.simulate
        timeline = build_timeline(config)
        user_count = max(round(settings.events / settings.events_per_user), 1)
        item_count = max(round(user_count * settings.items_per_user), FEWEST_ITEMS)
        items = draw_items(stream(config.seed, ITEMS), item_count)
        users = draw_users(stream(config.seed, USERS), user_count, settings, timeline, items)
        drift = draw_drift(
            stream(config.seed, DRIFT), settings.shift, len(timeline.calendar.promotions)
        )
        draft = cls(
            config=settings,
            seed=config.seed,
            timeline=timeline,
            items=items,
            users=users,
            equations=Equations(settings, {}, drift),
            sessions=settings.events / (4 + 2 * settings.impressions),
        )
        return draft._calibrated()

    def _calibrated(self) -> "World":
        config = self.config
        size = len(self.users) * min(1.0, PILOT_EVENTS / config.events)
        few, pilot = (self.users.part(0, max(round(share * size), 1)) for share in (0.1, 1.0))
        slots = config.impressions or PILOT_IMPRESSIONS
        shown = self._meet(stream(self.seed, PILOT, 0), few, slots)
        terms = click_terms(shown, few, self.items)
        equations = calibrate_clicks(self.equations, shown, terms)
        draft = replace(self, equations=equations)
        rng = stream(self.seed, PILOT, 1)
        meetings = self._meet(rng, pilot, config.impressions)
        visits = meetings.take(draft._visited(meetings, pilot))
        terms = draft._terms(visits, pilot)
        draft = replace(self, equations=calibrate(equations, visits, terms, self.timeline))
        expected = config.events * pilot.sessions.sum()
        # Events grow a little slower than sessions, which repeat visits; hence twice.
        for _ in range(2):
            drawn = max(len(draft.draw(rng, pilot).events.kind), 1)
            draft = replace(draft, sessions=draft.sessions * expected / drawn)
        return draft

    def draw(self, rng: np.random.Generator, users: Users) -> Drawn:
        """Draws all that some of the world's users do, in the order of cause and effect."""
        meetings = self._meet(rng, users, self.config.impressions)
        rows = self._visited(meetings, users)
        visits = meetings.take(rows)
        p = self.equations.probabilities(visits, self._terms(visits, users))
        outcomes = self._outcomes(visits, users, p)
        clicks = draw_clicks(rng, visits, p.repeat)
        delay = self.equations.direct_delay
        events = draw_events(rng, meetings, rows, clicks, p, outcomes, self.timeline, delay)
        logged = events.since(self.timeline.log_start_ms)
        return Drawn(meetings, rows, visits, p, outcomes, clicks, logged)

    def respond(
        self, user: Ints, item: Ints, time_ms: Ints, mood: Floats, position: Ints
    ) -> Response:
        """Answers what comes of showing items to users, by the equations that drew the log.

        Luck and hidden trait belong to seed, user, item, and season (for the click: the request's
        time): a visit of the log gets the log's outcomes, and policies that show the same item meet
        the same ones. Earlier visits do not matter for the answer; in the log a user and an item
        have one visit in a season.

        Args:
            user: [n], positions in `users`.
            item: [n], positions in `items`.
            time_ms: [n], the requests' times.
            mood: [n], the sessions' intent, standard normal.
            position: [n], slots, 0-based.

        Example:
            >>> from cmdcm.core.config import load_config
            >>> world = World.open(load_config(overrides=["simulate.events=5000"]))
            >>> start = world.timeline.calendar.promotions[0].promotion_start_ms
            >>> zeros, slots = np.zeros(5, np.int64), np.arange(5)
            >>> answer = world.respond(zeros, slots, zeros + start - 3_600_000, zeros + 0.0, slots)
            >>> bool((answer.promotion_price < answer.price).all())
            True
        """
        visits = visits_at(
            self.users,
            self.items,
            self.timeline,
            user=user,
            item=item,
            time_ms=click_time(time_ms, position),
            mood=mood,
            request=np.arange(len(user)),
            request_ms=time_ms,
            position=position,
        )
        p = self.equations.probabilities(visits, self._terms(visits, self.users))
        price = self.items.price[item]
        depth = self.config.promotion_effect * self.items.depth[item]
        return Response(
            probabilities=p,
            clicked=self._luck(visits, self.users) < p.click,
            outcomes=self._outcomes(visits, self.users, p),
            price=price,
            promotion_price=np.round(price * (1 - depth), 2),
        )

    def _meet(self, rng: np.random.Generator, users: Users, impressions: int) -> Visits:
        requests = draw_requests(rng, users, self.items, self.timeline, self.sessions)
        return draw_meetings(rng, requests, users, self.items, self.timeline, impressions)

    def _visited(self, meetings: Visits, users: Users) -> Ints:
        """Positions of the meetings that become visits."""
        clicked = np.ones(len(meetings), bool)
        if self.config.impressions:
            terms = click_terms(meetings, users, self.items)
            p = self.equations.evaluate("click", terms, meetings.season)
            clicked = self._luck(meetings, users) < p
        return first_of_season(meetings, clicked, len(self.items), len(self.timeline.seasons))

    def _luck(self, visits: Visits, users: Users) -> Floats:
        """The number that decides about a click."""
        user = users.index[visits.user]
        return uniform(visit_keys(self.seed, user, visits.item, visits.request_ms), CLICK)

    def _keys(self, visits: Visits, users: Users) -> Keys:
        return visit_keys(self.seed, users.index[visits.user], visits.item, visits.occasion)

    def _terms(self, visits: Visits, users: Users) -> Terms:
        return all_terms(visits, users, self.items, self.timeline, self._keys(visits, users))

    def _outcomes(self, visits: Visits, users: Users, p: Probabilities) -> Outcomes:
        return draw_outcomes(self._keys(visits, users), p, self.config.direct_cart_share)
