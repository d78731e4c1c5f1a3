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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmdcm.core.config import Config
from cmdcm.core.files import MANIFEST, sha256, staged_directory, write_manifest
from cmdcm.datasets.log import write_event_log
from cmdcm.datasets.simulation.emission import event_table
from cmdcm.datasets.simulation.randomness import CHUNKS, stream
from cmdcm.datasets.simulation.truth import in_window, truth_table
from cmdcm.datasets.simulation.world import World

EVENTS, TRUTH = "events", "truth"
EVENTS_PER_CHUNK = 250_000


@dataclass(frozen=True)
class Chunk:
    """What some users did, in the order of time.

    Attributes:
        events: Table of the event contract.
        truth: Table of `truth.TRUTH_SCHEMA`.
        labels: Number of truth rows with each label.
    """

    events: pa.Table
    truth: pa.Table
    labels: dict[str, int]


def chunk_count(world: World) -> int:
    """Number of user chunks; it depends on the configured number of events alone."""
    return -(-world.config.events // EVENTS_PER_CHUNK)


def draw_chunk(world: World, chunk: int) -> Chunk:
    """Draws the events and the truth of one chunk of users, 0 <= chunk < chunk_count(world)."""
    shares = np.arange(1, chunk_count(world)) / chunk_count(world)
    edges = np.searchsorted(np.cumsum(world.users.sessions), shares)
    bounds = [0, *edges.tolist(), len(world.users)]
    users = world.users.part(bounds[chunk], bounds[chunk + 1])
    rng = stream(world.seed, CHUNKS, chunk)
    drawn = world.draw(rng, users)
    rows = in_window(drawn.clicks, drawn.visits, world.timeline)
    visit, outcomes = drawn.clicks.visit[rows], drawn.outcomes
    return Chunk(
        events=event_table(rng, drawn.events, drawn.meetings, users, world.items, world.config),
        truth=truth_table(
            drawn.clicks, rows, drawn.visits, drawn.probabilities, outcomes, users, world.items
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
        config: Its seed, `simulate` section and calendar make the world.
        overwrite: Replace an existing `events` and `truth`.
        track: Wraps the chunk numbers, to show progress.

    Returns:
        The manifest of the events (`rows`, `rows_by_kind`, `users`, `items`, ...), and of the truth
        `pre_promotion_clicks` and `rates` (realised label rates of those clicks).

    Raises:
        ConfigError: Settings that make no world.
        OutputError: The output exists (without `overwrite`), or it cannot be written.
    """
    world = World.open(config)
    labels: Counter[str] = Counter()
    clicks = 0

    with staged_directory(output / TRUTH, overwrite=overwrite) as staging:

        def tables() -> Iterator[pa.Table]:
            nonlocal clicks
            for number in track(range(chunk_count(world))):
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
