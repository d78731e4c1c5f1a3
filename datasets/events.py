"""Contract 1, the event log: columns, types and time zone of raw events.

Readers and the simulator produce it, every later stage consumes it. On disk an event log is a
directory of Parquet parts (`part-00000.parquet`, ...) and a `manifest.json`.

| column      | type                   | unit, meaning                                          |
|-------------|------------------------|--------------------------------------------------------|
| user_id     | int64 or string        | required                                               |
| item_id     | int64 or string        | required                                               |
| kind        | dictionary of string   | required; one of `EVENT_KINDS`                         |
| timestamp   | timestamp[ms, tz=UTC]  | required; the log's own resolution may be coarser      |
| category_id | int64 or string        | optional                                               |
| seller_id   | int64 or string        | optional                                               |
| brand_id    | int64 or string        | optional                                               |
| price       | float64                | optional; per piece, in the log's one currency         |
| quantity    | int32                  | optional; pieces, of carts, purchases and refunds      |
| detail      | string                 | optional; which micro behaviour (reviews, images ...)  |
| session_id  | string                 | optional                                               |
| request_id  | string                 | optional; joins impressions to the ad request          |
| campaign_id | int64 or string        | optional                                               |
| position    | int32                  | optional; slot of an impression                        |

Events that share a timestamp (logs of hour or day resolution) are taken in the order of
`EVENT_KINDS`: a click comes before the cart it led to, a cart before the purchase.
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from cmdcm.core.errors import DataError

EVENT_KINDS = ("impression", "click", "micro", "favourite", "cart", "purchase", "refund")
"""The kinds of event, in the order in which events of one timestamp happened."""

KIND_TYPE = pa.dictionary(pa.int8(), pa.string())
TIME_TYPE = pa.timestamp("ms", tz="UTC")
ID_COLUMNS = ("user_id", "item_id", "category_id", "seller_id", "brand_id", "campaign_id")
ID_TYPES = (pa.int64(), pa.string())
REQUIRED_COLUMNS = ("user_id", "item_id", "kind", "timestamp")
VALUE_TYPES: dict[str, pa.DataType] = {
    "kind": KIND_TYPE,
    "timestamp": TIME_TYPE,
    "price": pa.float64(),
    "quantity": pa.int32(),
    "detail": pa.string(),
    "session_id": pa.string(),
    "request_id": pa.string(),
    "position": pa.int32(),
}
"""Types of the columns that are no identifiers."""

COLUMNS = (
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
    "session_id",
    "request_id",
    "campaign_id",
    "position",
)
"""All columns of the contract, in the order in which they are written."""


def event_schema(
    columns: Sequence[str] = REQUIRED_COLUMNS, string_ids: Sequence[str] = ()
) -> pa.Schema:
    """Returns the Arrow schema of a log that has `columns`.

    Args:
        columns: Names out of `COLUMNS`; the required ones are always part of the result.
        string_ids: Identifier columns that hold strings; the others hold int64.

    Example:
        >>> event_schema(["user_id", "item_id", "kind", "timestamp", "price"]).field("price").type
        DataType(double)
    """
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise DataError(f"unknown event columns {unknown}; the contract has {list(COLUMNS)}")
    fields = []
    for name in COLUMNS:
        if name not in columns and name not in REQUIRED_COLUMNS:
            continue
        if name in ID_COLUMNS:
            type_ = pa.string() if name in string_ids else pa.int64()
        else:
            type_ = VALUE_TYPES[name]
        fields.append(pa.field(name, type_, nullable=name not in REQUIRED_COLUMNS))
    return pa.schema(fields)


def check_schema(schema: pa.Schema, where: str) -> None:
    """Checks that an event log's schema keeps the contract.

    Raises:
        DataError: Names every missing, unknown or wrongly typed column and what was expected.
    """
    faults = [
        f"column {name!r} is missing" for name in REQUIRED_COLUMNS if name not in schema.names
    ]
    for field in schema:
        if field.name not in COLUMNS:
            faults.append(f"column {field.name!r} is not part of the event contract")
        elif field.name in ID_COLUMNS:
            if field.type not in ID_TYPES:
                faults.append(f"column {field.name!r} is {field.type}, expected int64 or string")
        elif field.type != VALUE_TYPES[field.name]:
            expected = VALUE_TYPES[field.name]
            faults.append(f"column {field.name!r} is {field.type}, expected {expected}")
    if faults:
        raise DataError(f"{where}: {'; '.join(faults)}")


KIND_ENUM = pl.Enum(EVENT_KINDS)
"""The Polars type of the column `kind`; its physical value is the index into `EVENT_KINDS`."""
