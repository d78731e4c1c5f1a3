"""Tmall repeat buyers (IJCAI-15): `user_log_format1.csv`, half a year up to Double 11 2014.

    user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type
    328862,323294,833,2882,2661,0829,0

Actions: 0 click, 1 cart, 2 purchase, 3 favourite. Times are days, MMDD of 2014, Asia/Shanghai;
here they are the day's first instant. A missing brand is null.
"""

import polars as pl

from cmdcm.datasets.readers.delimited import DelimitedFormat
from cmdcm.datasets.readers.intake import Column, integer, kind, local_time

KINDS = {"0": "click", "1": "cart", "2": "purchase", "3": "favourite"}
_YEAR = 2014


def _columns(timezone: str) -> tuple[Column, ...]:
    day = pl.col("time_stamp").cast(pl.Int32, strict=False).clip(0, 9999) + _YEAR * 10_000
    naive = day.cast(pl.String).str.to_date("%Y%m%d", strict=False).cast(pl.Datetime("ms"))
    return (
        integer("user_id", "user_id"),
        integer("item_id", "item_id"),
        integer("category_id", "cat_id"),
        integer("seller_id", "seller_id"),
        integer("brand_id", "brand_id"),
        kind("action_type", KINDS),
        local_time("time_stamp", naive, timezone),
    )


FORMAT = DelimitedFormat(
    names=(
        "user_id",
        "item_id",
        "cat_id",
        "seller_id",
        "brand_id",
        "time_stamp",
        "action_type",
    ),
    has_header=True,
    resolution="day",
    columns=_columns,
)
