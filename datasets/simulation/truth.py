"""The truth about every click in a pre-promotion window; for evaluation alone."""

import numpy as np
import pyarrow as pa

from cmdcm.datasets.events import TIME_TYPE
from cmdcm.datasets.simulation import Ints
from cmdcm.datasets.simulation.emission import Clicks, timestamps
from cmdcm.datasets.simulation.equations import Probabilities
from cmdcm.datasets.simulation.outcomes import Outcomes
from cmdcm.datasets.simulation.population import Items, Users
from cmdcm.datasets.simulation.timeline import Timeline
from cmdcm.datasets.simulation.visits import Visits

PROBABILITIES = (
    "p_direct",
    "propensity",
    "p_cart",
    "r1",
    "r0",
    "p_delayed",
    "p_conversion",
    "p_refund",
    "p_refund_delayed",
)

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("timestamp", TIME_TYPE, nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in PROBABILITIES),
        pa.field("p_click", pa.float64()),
        pa.field("l1", pa.bool_(), nullable=False),
        pa.field("l0", pa.bool_(), nullable=False),
    ]
)
"""One row for each click in a pre-promotion window; its key is (user_id, item_id, timestamp)."""


def in_window(clicks: Clicks, visits: Visits, timeline: Timeline) -> Ints:
    """Returns the positions of the clicks in pre-promotion windows."""
    return np.flatnonzero(timeline.in_window(clicks.time_ms, visits.season[clicks.visit]))


def truth_table(
    clicks: Clicks,
    rows: Ints,
    visits: Visits,
    p: Probabilities,
    outcomes: Outcomes,
    users: Users,
    items: Items,
) -> pa.Table:
    """Returns the truth about the clicks at `rows`, by `TRUTH_SCHEMA`."""
    visit = clicks.visit[rows]
    click = p.click[visit]
    columns = {
        "user_id": 1 + users.index[visits.user[visit]],
        "item_id": items.item_id[visits.item[visit]],
        "timestamp": timestamps(clicks.time_ms[rows]),
        "p_direct": p.direct[visit],
        "propensity": p.propensity[visit],
        "p_cart": p.cart[visit],
        "r1": p.r1[visit],
        "r0": p.r0[visit],
        "p_delayed": p.delayed[visit],
        "p_conversion": p.direct[visit] + p.delayed[visit],
        "p_refund": p.refund[visit],
        "p_refund_delayed": p.refund_delayed[visit],
        "p_click": pa.array(click, mask=np.isnan(click)),
        "l1": outcomes.delayed_if_carted[visit],
        "l0": outcomes.delayed_if_uncarted[visit],
    }
    return pa.table(columns, schema=TRUTH_SCHEMA)
