"""RetailRocket recommender system data set: `events.csv`.

    timestamp,visitorid,event,itemid,transactionid
    1433221332117,257597,view,355908,

A `view` of an item is a click. Times are Unix milliseconds. The log has no category.
"""

from cmdcm.datasets.readers.delimited import DelimitedFormat
from cmdcm.datasets.readers.intake import Column, integer, kind, unix_time

KINDS = {"view": "click", "addtocart": "cart", "transaction": "purchase"}


def _columns(timezone: str) -> tuple[Column, ...]:
    return (
        integer("user_id", "visitorid"),
        integer("item_id", "itemid"),
        kind("event", KINDS),
        unix_time("timestamp", unit_ms=1),
    )


FORMAT = DelimitedFormat(
    names=("timestamp", "visitorid", "event", "itemid", "transactionid"),
    has_header=True,
    resolution="ms",
    columns=_columns,
)
