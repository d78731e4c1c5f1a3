"""REES46 eCommerce behaviour: monthly files `2019-Oct.csv`, `2019-Nov.csv`, ...

    event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
    2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde-...

A `view` of a product is a click. `remove_from_cart` undoes a cart, for which the contract has no
kind: it is counted and left out. Months in one gzip file, member after member, are read as one log;
the repeated header is then a malformed line.
"""

import polars as pl

from cmdcm.datasets.readers.delimited import DelimitedFormat
from cmdcm.datasets.readers.intake import DROP, Column, integer, kind, local_time, price, text

KINDS = {"view": "click", "cart": "cart", "purchase": "purchase", "remove_from_cart": DROP}
_FORMAT = "%Y-%m-%d %H:%M:%S UTC"


def _columns(timezone: str) -> tuple[Column, ...]:
    naive = pl.col("event_time").str.to_datetime(_FORMAT, strict=False, time_unit="ms")
    return (
        integer("user_id", "user_id"),
        integer("item_id", "product_id"),
        integer("category_id", "category_id"),
        text("brand_id", "brand"),
        kind("event_type", KINDS),
        local_time("event_time", naive, "UTC"),
        price("price"),
        text("session_id", "user_session"),
    )


FORMAT = DelimitedFormat(
    names=(
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ),
    has_header=True,
    resolution="second",
    columns=_columns,
    string_ids=("brand_id",),
)
