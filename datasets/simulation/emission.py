"""From visits and what came of them to the events of the log."""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmdcm.core.config import SimulateConfig
from cmdcm.datasets.events import COLUMNS, EVENT_KINDS, TIME_TYPE, event_schema
from cmdcm.datasets.log import kind_array
from cmdcm.datasets.simulation import Bools, Floats, Ints
from cmdcm.datasets.simulation.delays import CART, REFUND, REPEAT, RETURN, SIGN, Delay
from cmdcm.datasets.simulation.equations import Probabilities
from cmdcm.datasets.simulation.outcomes import Outcomes
from cmdcm.datasets.simulation.population import Items, Users
from cmdcm.datasets.simulation.timeline import Timeline
from cmdcm.datasets.simulation.visits import Visits

EVENT_COLUMNS = COLUMNS[: COLUMNS.index("session_id")]
REQUEST_COLUMNS = ("request_id", "position")
"""Columns of logs with impressions; set on impressions and on the clicks that they got."""
MICRO_BEHAVIOURS = ("reviews", "size_chart", "images", "service_chat")
MOST_REPEATS = 6
"""Further clicks of a visit, at the most."""
RETURN_IF_CARTED = 0.5
"""Share of bought carts that are clicked first on the promotion day; other items always are."""
COUNTED = [EVENT_KINDS.index(kind) for kind in ("cart", "purchase", "refund")]
"""Kinds that have a quantity."""


@dataclass(frozen=True)
class Clicks:
    """Clicks of visits, in the order of visit and time.

    Attributes:
        visit: [clicks], index into the visits.
        time_ms: [clicks].
        first: [clicks], whether the click opens its visit.
        last_ms: [visits], last click of each visit, which all decisions follow.
    """

    visit: Ints
    time_ms: Ints
    first: Bools
    last_ms: Ints


@dataclass(frozen=True)
class Events:
    """Events in the order of time, all arrays [events].

    Attributes:
        meeting: Index into what users met.
        kind: Index into `EVENT_KINDS`.
        time_ms: When.
        detail: Index into `MICRO_BEHAVIOURS`, -1 for none.
        reduced: Whether the price is that of the promotion days.
        answers: Whether it is an impression, or the click on one.
    """

    meeting: Ints
    kind: Ints
    time_ms: Ints
    detail: Ints
    reduced: Bools
    answers: Bools

    def since(self, time_ms: int) -> "Events":
        """Returns the events from an instant on."""
        first = np.searchsorted(self.time_ms, time_ms)
        return Events(*(getattr(self, field.name)[first:] for field in fields(self)))


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
    return Clicks(visit, time_ms, np.diff(visit, prepend=-1) > 0, time_ms[last])


def draw_events(
    rng: np.random.Generator,
    meetings: Visits,
    rows: Ints,
    clicks: Clicks,
    p: Probabilities,
    outcomes: Outcomes,
    timeline: Timeline,
    direct_delay: Delay,
) -> Events:
    """Draws when everything happens that was decided, the signs of intent, and refunds.

    Args:
        rng: Source of randomness.
        meetings: What users met.
        rows: [visits], the meetings that became visits.
        clicks: The visits' clicks.
        p: Their probabilities.
        outcomes: What was decided.
        timeline: The period.
        direct_delay: From a visit's last click to a direct purchase.
    """
    visits = meetings.take(rows)
    seconds_left = (visits.deadline_ms - clicks.last_ms) // 1000 - 1
    bought_after = direct_delay.draw(rng, seconds_left)
    carted_after = CART.draw(rng, np.where(outcomes.direct, bought_after, seconds_left))

    looked = np.flatnonzero(rng.random(len(clicks.visit)) < p.micro[clicks.visit])
    look_ms = _sign_after(rng, clicks.time_ms[looked], visits.deadline_ms[clicks.visit[looked]])
    liked = np.flatnonzero(rng.random(len(visits)) < p.favourite)
    like_ms = _sign_after(rng, visits.time_ms[liked], visits.deadline_ms[liked])
    carted = np.flatnonzero(outcomes.cart)
    bought = np.flatnonzero(outcomes.direct)
    bought_ms = (clicks.last_ms + 1000 * bought_after)[bought]

    delayed = np.flatnonzero(outcomes.delayed)
    start, end = timeline.seasons[visits.season[delayed], 1:].T
    delayed_ms = timeline.traffic_between(start, end, rng.random(len(delayed)))
    back = rng.random(len(delayed)) < np.where(outcomes.cart[delayed], RETURN_IF_CARTED, 1.0)
    ahead = RETURN.draw(rng, np.full(len(delayed), RETURN.seconds[-1]))
    back_ms = np.maximum(delayed_ms - 1000 * ahead, start)[back]

    paid_ms = np.concatenate([bought_ms, delayed_ms])
    refund = np.concatenate([p.refund[bought], p.refund_delayed[delayed]])
    refund_ms = paid_ms + 1000 * REFUND.draw(rng, np.full(len(paid_ms), REFUND.seconds[-1]))
    refunded = (rng.random(len(paid_ms)) < refund) & (refund_ms < timeline.end_ms)

    shown = np.flatnonzero(meetings.position >= 0)
    # In the order of EVENT_KINDS, which the stable sort keeps where times are equal.
    groups = (
        ("impression", shown, meetings.request_ms[shown]),
        ("click", rows[clicks.visit], clicks.time_ms),
        ("click", rows[delayed[back]], back_ms),
        ("micro", rows[clicks.visit[looked]], look_ms),
        ("favourite", rows[liked], like_ms),
        ("cart", rows[carted], (clicks.last_ms + 1000 * carted_after)[carted]),
        ("purchase", rows[bought], bought_ms),
        ("purchase", rows[delayed], delayed_ms),
        ("refund", rows[np.concatenate([bought, delayed])[refunded]], refund_ms[refunded]),
    )
    kind = np.concatenate([np.full(len(at), EVENT_KINDS.index(name)) for name, at, _ in groups])
    meeting = np.concatenate([at for _, at, _ in groups])
    time_ms = np.concatenate([when for _, _, when in groups])
    detail = np.full(len(kind), -1)
    micro = kind == EVENT_KINDS.index("micro")
    detail[micro] = rng.integers(len(MICRO_BEHAVIOURS), size=len(looked))
    # A refund gives back what was paid, whenever it happens.
    priced_ms = time_ms.copy()
    priced_ms[len(kind) - int(refunded.sum()) :] = paid_ms[refunded]
    season = meetings.season[meeting]
    reduced = (season >= 0) & (priced_ms >= timeline.seasons[season, 1])
    answers = np.zeros(len(kind), bool)
    answers[: len(shown)] = True
    answers[len(shown) : len(shown) + len(clicks.visit)] = clicks.first & bool(len(shown))
    order = np.argsort(time_ms, kind="stable")
    return Events(
        meeting=meeting[order],
        kind=kind[order],
        time_ms=time_ms[order],
        detail=detail[order],
        reduced=reduced[order],
        answers=answers[order],
    )


def event_table(
    rng: np.random.Generator,
    events: Events,
    meetings: Visits,
    users: Users,
    items: Items,
    config: SimulateConfig,
) -> pa.Table:
    """Returns the events as a table of the event contract."""
    item = meetings.item[events.meeting]
    user_id = 1 + users.index[meetings.user[events.meeting]]
    depth = np.where(events.reduced, config.promotion_effect * items.depth[item], 0.0)
    pieces = (1 + rng.poisson(0.15, len(meetings)))[events.meeting].astype(np.int32)
    brand = items.brand[item]
    detail = pa.DictionaryArray.from_arrays(
        pa.array(events.detail, mask=events.detail < 0), pa.array(MICRO_BEHAVIOURS)
    )
    columns = {
        "user_id": user_id,
        "item_id": items.item_id[item],
        "kind": kind_array(events.kind),
        "timestamp": timestamps(events.time_ms),
        "category_id": 1 + items.category[item],
        "seller_id": 1 + items.seller[item],
        "brand_id": pa.array(1 + brand, mask=brand < 0),
        "price": np.round(items.price[item] * (1 - depth), 2),
        "quantity": pa.array(pieces, mask=~np.isin(events.kind, COUNTED)),
        "detail": detail.cast(pa.string()),
    }
    if not config.impressions:
        return pa.table(columns, schema=event_schema(EVENT_COLUMNS))
    # Requests are counted within a chunk; its first user makes their names unique.
    prefix = f"{1 + users.index[0]}-" if len(users) else ""
    request = pa.array(meetings.request[events.meeting], mask=~events.answers).cast(pa.string())
    columns["request_id"] = pc.binary_join_element_wise(prefix, request, "")
    position = meetings.position[events.meeting].astype(np.int32)
    columns["position"] = pa.array(position, mask=~events.answers)
    return pa.table(columns, schema=event_schema((*EVENT_COLUMNS, *REQUEST_COLUMNS)))


def timestamps(time_ms: Ints) -> pa.Array:
    """Returns UTC milliseconds as the contract's timestamps."""
    return pa.array(time_ms, pa.int64()).cast(TIME_TYPE)


def _sign_after(rng: np.random.Generator, click_ms: Ints, deadline_ms: Ints) -> Ints:
    return click_ms + 1000 * SIGN.draw(rng, (deadline_ms - click_ms) // 1000 - 1)
