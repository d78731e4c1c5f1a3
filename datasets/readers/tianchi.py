"""Tianchi mobile recommendation 2014: `tianchi_mobile_recommend_train_user.csv`.

    user_id,item_id,behavior_type,user_geohash,item_category,time
    98047837,232431562,1,,4245,2014-12-06 02

Behaviours: 1 click, 2 favourite, 3 cart, 4 purchase. Times are hours of Asia/Shanghai.
"""

import polars as pl

from cmdcm.datasets.readers.delimited import DelimitedFormat
from cmdcm.datasets.readers.intake import Column, integer, kind, local_time

KINDS = {"1": "click", "2": "favourite", "3": "cart", "4": "purchase"}
_HOUR_LENGTH = len("2014-12-06 02")


def _columns(timezone: str) -> tuple[Column, ...]:
    # A time is parsed with its minutes, which the log leaves out.
    hour = pl.when(pl.col("time").str.len_bytes() == _HOUR_LENGTH).then(pl.col("time") + ":00")
    naive = hour.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="ms")
    return (
        integer("user_id", "user_id"),
        integer("item_id", "item_id"),
        integer("category_id", "item_category"),
        kind("behavior_type", KINDS),
        local_time("time", naive, timezone),
    )


FORMAT = DelimitedFormat(
    names=("user_id", "item_id", "behavior_type", "user_geohash", "item_category", "time"),
    has_header=True,
    resolution="hour",
    columns=_columns,
)
