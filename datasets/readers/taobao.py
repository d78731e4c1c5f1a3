"""Taobao User Behavior (Tianchi data set 649): `UserBehavior.csv`, 100 million rows, no header.

    1,2268318,2520377,pv,1511544070

`pv` is a view of an item's page, a click. Times are Unix seconds; days are Asia/Shanghai days.
"""

from cmdcm.datasets.readers.delimited import DelimitedFormat
from cmdcm.datasets.readers.intake import Column, integer, kind, unix_time

KINDS = {"pv": "click", "fav": "favourite", "cart": "cart", "buy": "purchase"}


def _columns(timezone: str) -> tuple[Column, ...]:
    return (
        integer("user_id", "user_id"),
        integer("item_id", "item_id"),
        integer("category_id", "category_id"),
        kind("behavior", KINDS),
        unix_time("timestamp", unit_ms=1000),
    )


FORMAT = DelimitedFormat(
    names=("user_id", "item_id", "category_id", "behavior", "timestamp"),
    has_header=False,
    resolution="second",
    columns=_columns,
)
