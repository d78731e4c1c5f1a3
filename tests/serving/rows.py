"""Rows to score, as a table of the tiny model's features."""

import pyarrow as pa

from cmdcm.tests.serving import models


def rows_table(users: list[int]) -> pa.Table:
    """A row for each entry of `users`, all candidates different, with a `key` column."""
    count = len(users)
    item = models.candidate_arrays(count)
    user = models.user_values()
    return pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "city": [user["city"]] * count,
            "user_counts": pa.array([user["user_counts"]] * count, pa.list_(pa.float32())),
            "clicked_item": [user["clicked_item"]] * count,
            "clicked_age": pa.array([user["clicked_age"]] * count, pa.list_(pa.float32())),
            "hour": [user["hour"]] * count,
            "item_id": item["item_id"],
            "brand": [brand.decode() for brand in item["brand"]],
            "price": item["price"],
            "affinity": pa.array(item["affinity"].tolist(), pa.list_(pa.float32())),
            "direct": pa.array([0.0] * count, pa.float32()),
            "key": [f"row {number}" for number in range(count)],
        }
    )
