"""A simulated world with known truth: promotions over years, users who wait for them, events.

    OUTPUT/events   the event log (`cmdcm.datasets.log`), all that a pipeline reads
    OUTPUT/truth    true probabilities and both potential outcomes of every click in a
                    pre-promotion window; for evaluation alone

The model is written down in docs/simulator.md; its parts are in `cmdcm.datasets.simulation`. Users
are drawn once, their events chunk by chunk, each chunk from a seed of its own: memory is bounded by
a chunk, and equal settings give equal bytes whatever runs beside or in which order.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmdcm.core.config import Config, SimulateConfig
from cmdcm.core.files import MANIFEST, sha256, staged_directory, write_manifest
from cmdcm.datasets.log import write_event_log
from cmdcm.datasets.simulation import emission
from cmdcm.datasets.simulation.outcomes import (
    Outcomes,
    Probabilities,
    calibrate,
    draw_outcomes,
    probabilities,
    terms,
)
from cmdcm.datasets.simulation.population import Items, Users, draw_items, draw_users
from cmdcm.datasets.simulation.timeline import Timeline, build_timeline
from cmdcm.datasets.simulation.visits import Visits, draw_visits

EVENTS, TRUTH = "events", "truth"
FEWEST_ITEMS = 100
EVENTS_PER_CHUNK = 250_000
PILOT_EVENTS = 150_000
"""Events from which the intercepts and the number of sessions are found."""

_ITEMS, _USERS, _PILOT, _CHUNKS = range(4)


@dataclass(frozen=True)
class World:
    """All that the chunks have in common.

    Attributes:
        config: The settings.
        seed: The one source of randomness.
        timeline: Period, seasons, traffic.
        items: All items.
        users: All users.
        intercepts: Intercepts of the structural equations.
        sessions: Expected number of sessions of all users together.
    """

    config: SimulateConfig
    seed: int
    timeline: Timeline
    items: Items
    users: Users
    intercepts: dict[str, float]
    sessions: float

    @property
    def chunks(self) -> int:
        """Number of user chunks; it depends on the configured number of events alone."""
        return -(-self.config.events // EVENTS_PER_CHUNK)

    def chunk_bounds(self, chunk: int) -> tuple[int, int]:
        """Returns the first user of a chunk and the first one after it."""
        shares = np.arange(1, self.chunks) / self.chunks
        edges = np.searchsorted(np.cumsum(self.users.sessions), shares)
        bounds = [0, *edges.tolist(), len(self.users)]
        return bounds[chunk], bounds[chunk + 1]


@dataclass(frozen=True)
class Chunk:
    """What some users did, in the order of time.

    Attributes:
        events: Table of the event contract.
        truth: Table of `emission.TRUTH_SCHEMA`.
        labels: Number of truth rows with each label.
    """

    events: pa.Table
    truth: pa.Table
    labels: dict[str, int]


def build_world(config: Config) -> World:
    """Draws items and users, and solves for intercepts and traffic on a pilot of the users.

    Raises:
        ConfigError: Settings that make no world, such as an unknown promotion.
    """
    settings = config.simulate
    timeline = build_timeline(settings, config.calendar.timezone)
    user_count = max(round(settings.events / settings.events_per_user), 1)
    item_count = max(round(user_count * settings.items_per_user), FEWEST_ITEMS)
    items = draw_items(_generator(config.seed, _ITEMS), item_count)
    rng = _generator(config.seed, _USERS)
    users = draw_users(rng, user_count, settings.new_user_share, timeline, items)

    pilot = users.part(0, max(round(user_count * min(1.0, PILOT_EVENTS / settings.events)), 1))
    rng = _generator(config.seed, _PILOT)
    sessions = settings.events / 4
    visits = draw_visits(rng, pilot, items, timeline, sessions)
    intercepts = calibrate(visits, terms(rng, visits, pilot, items, timeline), timeline, settings)
    draft = World(settings, config.seed, timeline, items, users, intercepts, sessions)
    drawn = len(_draw(rng, pilot, draft).events.visit)
    expected = settings.events * pilot.sessions.sum()
    return replace(draft, sessions=sessions * expected / drawn)


def draw_chunk(world: World, chunk: int) -> Chunk:
    """Draws the events and the truth of one chunk of users, 0 <= chunk < world.chunks."""
    rng = _generator(world.seed, _CHUNKS, chunk)
    first, stop = world.chunk_bounds(chunk)
    drawn = _draw(rng, world.users.part(first, stop), world)
    rows = emission.in_window(drawn.clicks, drawn.visits, world.timeline)
    visit, outcomes = drawn.clicks.visit[rows], drawn.outcomes
    return Chunk(
        events=emission.event_table(
            rng, drawn.events, drawn.visits, world.items, world.timeline, first + 1
        ),
        truth=emission.truth_table(
            drawn.clicks, rows, drawn.visits, drawn.probabilities, outcomes, world.items, first + 1
        ),
        labels={
            "direct": int(outcomes.direct[visit].sum()),
            "cart": int(outcomes.cart[visit].sum()),
            "delayed": int(outcomes.delayed[visit].sum()),
        },
    )


def simulate(
    output: Path,
    config: Config,
    *,
    overwrite: bool = False,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Writes a world: its event log and the truth about it.

    Events are in the order of user chunks, and of time within each. Event log and truth are each
    published whole or not at all; the truth's manifest names the log that it belongs to.

    Args:
        output: Directory that gets `events` and `truth`.
        config: Its seed, `simulate` section and time zone make the world.
        overwrite: Replace an existing `events` and `truth`.
        track: Wraps the chunk numbers, to show progress.

    Returns:
        The manifest of the events (`rows`, `rows_by_kind`, `users`, `items`, ...), and of the truth
        `pre_promotion_clicks` and `rates` (realised label rates of those clicks).

    Raises:
        ConfigError: Settings that make no world.
        OutputError: The output exists (without `overwrite`), or it cannot be written.
    """
    world = build_world(config)
    labels: Counter[str] = Counter()
    clicks = 0

    with staged_directory(output / TRUTH, overwrite=overwrite) as staging:

        def tables() -> Iterator[pa.Table]:
            nonlocal clicks
            for number in track(range(world.chunks)):
                chunk = draw_chunk(world, number)
                labels.update(chunk.labels)
                clicks += chunk.truth.num_rows
                pq.write_table(
                    chunk.truth, staging / f"part-{number:05d}.parquet", compression="zstd"
                )
                yield chunk.events

        log = write_event_log(
            output / EVENTS, tables(), description=_describe(world), overwrite=overwrite
        )
        truth = {
            "pre_promotion_clicks": clicks,
            "rates": {name: count / max(clicks, 1) for name, count in labels.items()},
        }
        write_manifest(
            staging,
            {"kind": "truth", "events_sha256": sha256(output / EVENTS / MANIFEST), **truth},
        )
    return {**log, **truth}


def _describe(world: World) -> dict[str, Any]:
    return {
        "source": "simulator",
        "resolution": "second",
        "seed": world.seed,
        "timezone": world.timeline.calendar.timezone,
        "simulate": world.config.model_dump(mode="json"),
        "promotions": [promotion.name for promotion in world.timeline.calendar.promotions],
    }


@dataclass(frozen=True)
class _Drawn:
    visits: Visits
    probabilities: Probabilities
    outcomes: Outcomes
    clicks: emission.Clicks
    events: emission.Events


def _draw(rng: np.random.Generator, users: Users, world: World) -> _Drawn:
    """Everything that happens, in the order of cause and effect."""
    visits = draw_visits(rng, users, world.items, world.timeline, world.sessions)
    x = terms(rng, visits, users, world.items, world.timeline)
    p = probabilities(visits, x, world.intercepts, world.config.confounding)
    outcomes = draw_outcomes(rng, p)
    clicks = emission.draw_clicks(rng, visits, p.repeat)
    events = emission.draw_events(rng, visits, clicks, p, outcomes, world.timeline)
    return _Drawn(visits, p, outcomes, clicks, events)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
