"""From visits and what came of them to the events of the log, and to the truth beside it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cmdcm.datasets.events import EVENT_KINDS, TIME_TYPE, event_schema
from cmdcm.datasets.log import kind_array
from cmdcm.datasets.simulation import Floats, Ints
from cmdcm.datasets.simulation.delays import CART, DIRECT, REPEAT, RETURN, SIGN
from cmdcm.datasets.simulation.outcomes import CARTED_IF_DIRECT, Outcomes, Probabilities
from cmdcm.datasets.simulation.population import Items
from cmdcm.datasets.simulation.timeline import Timeline
from cmdcm.datasets.simulation.visits import Visits

EVENT_COLUMNS = (
    "user_id",
    "item_id",
    "kind",
    "timestamp",
    "category_id",
    "seller_id",
    "brand_id",
    "price",
    "quantity",
    "detail",
)
MICRO_BEHAVIOURS = ("reviews", "size_chart", "images", "service_chat")
MOST_REPEATS = 6
"""Further clicks of a visit, at the most."""
RETURN_IF_CARTED = 0.5
"""Share of bought carts that are clicked first on the promotion day; other items always are."""

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("timestamp", TIME_TYPE, nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in (
                "p_direct",
                "propensity",
                "p_cart",
                "r1",
                "r0",
                "p_delayed",
                "p_conversion",
            )
        ),
        pa.field("l1", pa.bool_(), nullable=False),
        pa.field("l0", pa.bool_(), nullable=False),
    ]
)
"""One row for each click in a pre-promotion window; its key is (user_id, item_id, timestamp)."""


@dataclass(frozen=True)
class Clicks:
    """Clicks of visits, in the order of visit and time.

    Attributes:
        visit: [clicks], index into the visits.
        time_ms: [clicks].
        last_ms: [visits], last click of each visit, which all decisions follow.
    """

    visit: Ints
    time_ms: Ints
    last_ms: Ints


@dataclass(frozen=True)
class Events:
    """Events in the order of time, all arrays [events].

    Attributes:
        visit: Index into the visits.
        kind: Index into `EVENT_KINDS`.
        time_ms: When.
        detail: Index into `MICRO_BEHAVIOURS`, -1 for none.
    """

    visit: Ints
    kind: Ints
    time_ms: Ints
    detail: Ints


def draw_clicks(rng: np.random.Generator, visits: Visits, repeat: Floats) -> Clicks:
    """Draws the visits' clicks; those at or after the deadline do not happen."""
    count = np.minimum(rng.geometric(1 - repeat), 1 + MOST_REPEATS)
    visit = np.repeat(np.arange(len(visits)), count)
    gap = REPEAT.draw(rng, np.full(len(visit), REPEAT.seconds[-1]))
    elapsed = np.cumsum(gap)
    elapsed -= elapsed[np.cumsum(count) - count][visit]
    time_ms = visits.time_ms[visit] + 1000 * elapsed
    kept = time_ms < visits.deadline_ms[visit]
    visit, time_ms = visit[kept], time_ms[kept]
    last = np.cumsum(np.bincount(visit, minlength=len(visits))) - 1
    return Clicks(visit, time_ms, time_ms[last])


def draw_events(
    rng: np.random.Generator,
    visits: Visits,
    clicks: Clicks,
    p: Probabilities,
    outcomes: Outcomes,
    timeline: Timeline,
) -> Events:
    """Draws when everything happens that was decided, and the signs of intent."""
    seconds_left = (visits.deadline_ms - clicks.last_ms) // 1000 - 1
    bought_after = DIRECT.draw(rng, seconds_left)
    carted_after = CART.draw(rng, np.where(outcomes.direct, bought_after, seconds_left))

    looked = np.flatnonzero(rng.random(len(clicks.visit)) < p.micro[clicks.visit])
    look_ms = _sign_after(rng, clicks.time_ms[looked], visits.deadline_ms[clicks.visit[looked]])
    liked = np.flatnonzero(rng.random(len(visits)) < p.favourite)
    like_ms = _sign_after(rng, visits.time_ms[liked], visits.deadline_ms[liked])
    carted = np.flatnonzero(outcomes.cart)
    bought = np.flatnonzero(outcomes.direct)

    delayed = np.flatnonzero(outcomes.delayed)
    start, end = timeline.seasons[visits.season[delayed], 1:].T
    delayed_ms = timeline.traffic_between(start, end, rng.random(len(delayed)))
    back = rng.random(len(delayed)) < np.where(outcomes.cart[delayed], RETURN_IF_CARTED, 1.0)
    ahead = RETURN.draw(rng, np.full(len(delayed), RETURN.seconds[-1]))
    back_ms = np.maximum(delayed_ms - 1000 * ahead, start)[back]

    # In the order of EVENT_KINDS, which the stable sort keeps where times are equal.
    groups = (
        ("click", clicks.visit, clicks.time_ms),
        ("click", delayed[back], back_ms),
        ("micro", clicks.visit[looked], look_ms),
        ("favourite", liked, like_ms),
        ("cart", carted, (clicks.last_ms + 1000 * carted_after)[carted]),
        ("purchase", bought, (clicks.last_ms + 1000 * bought_after)[bought]),
        ("purchase", delayed, delayed_ms),
    )
    kind = np.concatenate([np.full(len(at), EVENT_KINDS.index(name)) for name, at, _ in groups])
    detail = np.full(len(kind), -1)
    micro = kind == EVENT_KINDS.index("micro")
    detail[micro] = rng.integers(len(MICRO_BEHAVIOURS), size=len(looked))
    time_ms = np.concatenate([when for _, _, when in groups])
    order = np.argsort(time_ms, kind="stable")
    visit = np.concatenate([at for _, at, _ in groups])
    return Events(visit[order], kind[order], time_ms[order], detail[order])


def event_table(
    rng: np.random.Generator,
    events: Events,
    visits: Visits,
    items: Items,
    timeline: Timeline,
    first_user: int,
) -> pa.Table:
    """Returns the events as a table of the event contract; user ids count from `first_user`."""
    item = visits.item[events.visit]
    season = visits.season[events.visit]
    reduced = (season >= 0) & (events.time_ms >= timeline.seasons[season, 1])
    price = items.price[item] * np.where(reduced, 1 - items.depth[item], 1.0)
    pieces = (1 + rng.poisson(0.15, len(visits)))[events.visit].astype(np.int32)
    counted = np.isin(events.kind, [EVENT_KINDS.index("cart"), EVENT_KINDS.index("purchase")])
    brand = items.brand[item]
    detail = pa.DictionaryArray.from_arrays(
        pa.array(events.detail, mask=events.detail < 0), pa.array(MICRO_BEHAVIOURS)
    )
    columns = {
        "user_id": first_user + visits.user[events.visit],
        "item_id": items.item_id[item],
        "kind": kind_array(events.kind),
        "timestamp": _timestamps(events.time_ms),
        "category_id": 1 + items.category[item],
        "seller_id": 1 + items.seller[item],
        "brand_id": pa.array(1 + brand, mask=brand < 0),
        "price": np.round(price, 2),
        "quantity": pa.array(pieces, mask=~counted),
        "detail": detail.cast(pa.string()),
    }
    return pa.table(columns, schema=event_schema(EVENT_COLUMNS))


def in_window(clicks: Clicks, visits: Visits, timeline: Timeline) -> Ints:
    """Returns the positions of the clicks in pre-promotion windows."""
    return np.flatnonzero(timeline.in_window(clicks.time_ms, visits.season[clicks.visit]))


def truth_table(
    clicks: Clicks,
    rows: Ints,
    visits: Visits,
    p: Probabilities,
    outcomes: Outcomes,
    items: Items,
    first_user: int,
) -> pa.Table:
    """Returns the truth about the clicks at `rows`, by `TRUTH_SCHEMA`."""
    visit = clicks.visit[rows]
    direct, e, r1, r0 = p.direct[visit], p.propensity[visit], p.r1[visit], p.r0[visit]
    delayed = (1 - direct) * (e * r1 + (1 - e) * r0)
    columns = {
        "user_id": first_user + visits.user[visit],
        "item_id": items.item_id[visits.item[visit]],
        "timestamp": _timestamps(clicks.time_ms[rows]),
        "p_direct": direct,
        "propensity": e,
        "p_cart": direct * CARTED_IF_DIRECT + (1 - direct) * e,
        "r1": r1,
        "r0": r0,
        "p_delayed": delayed,
        "p_conversion": direct + delayed,
        "l1": outcomes.delayed_if_carted[visit],
        "l0": outcomes.delayed_if_uncarted[visit],
    }
    return pa.table(columns, schema=TRUTH_SCHEMA)


def _sign_after(rng: np.random.Generator, click_ms: Ints, deadline_ms: Ints) -> Ints:
    return click_ms + 1000 * SIGN.draw(rng, (deadline_ms - click_ms) // 1000 - 1)


def _timestamps(time_ms: Ints) -> pa.Array:
    return pa.array(time_ms, pa.int64()).cast(TIME_TYPE)
