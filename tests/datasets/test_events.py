"""The event log's contract: its schema, and what is said about logs that break it."""

import re

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmdcm.core.errors import DataError
from cmdcm.datasets import events
from cmdcm.datasets.events import (
    COLUMNS,
    EVENT_KINDS,
    ID_COLUMNS,
    KIND_ENUM,
    KIND_TYPE,
    REQUIRED_COLUMNS,
    TIME_TYPE,
    VALUE_TYPES,
    check_schema,
    event_schema,
)


def test_every_column_has_its_type():
    assert set(COLUMNS) == set(ID_COLUMNS) | set(VALUE_TYPES)
    assert not set(ID_COLUMNS) & set(VALUE_TYPES)
    assert len(COLUMNS) == len(set(COLUMNS))


def test_the_docstring_lists_the_columns_in_order():
    rows = re.findall(r"^\| (\w+) +\|.*\|.*\|$", events.__doc__, re.MULTILINE)
    assert rows == ["column", *COLUMNS]


def test_a_tie_is_in_the_order_of_cause():
    kinds = pl.Series(["purchase", "cart", "refund", "favourite", "click"], dtype=KIND_ENUM)
    assert kinds.sort().to_list() == ["click", "favourite", "cart", "purchase", "refund"]
    assert kinds.to_physical().to_list() == [EVENT_KINDS.index(kind) for kind in kinds]


class TestEventSchema:
    def test_the_required_columns_are_always_there_and_never_null(self):
        schema = event_schema(["price"])
        assert schema.names == ["user_id", "item_id", "kind", "timestamp", "price"]
        assert [schema.field(name).nullable for name in REQUIRED_COLUMNS] == [False] * 4
        assert schema.field("price").nullable

    def test_columns_are_in_the_order_of_the_contract(self):
        assert event_schema(tuple(reversed(COLUMNS))).names == list(COLUMNS)

    def test_types(self):
        schema = event_schema(COLUMNS, string_ids=["item_id", "brand_id"])
        assert schema.field("user_id").type == pa.int64()
        assert schema.field("item_id").type == pa.string()
        assert schema.field("brand_id").type == pa.string()
        assert schema.field("kind").type == KIND_TYPE
        assert schema.field("timestamp").type == pa.timestamp("ms", tz="UTC")
        assert schema.field("quantity").type == pa.int32()

    def test_unknown_columns_are_named(self):
        with pytest.raises(DataError, match=r"unknown event columns \['colour', 'shop'\]"):
            event_schema(["shop", "user_id", "colour"])


class TestCheckSchema:
    @pytest.mark.parametrize("string_ids", [(), ID_COLUMNS])
    @pytest.mark.parametrize("columns", [REQUIRED_COLUMNS, COLUMNS])
    def test_accepts_what_event_schema_makes(self, columns, string_ids):
        check_schema(event_schema(columns, string_ids), "log")

    def test_accepts_a_log_that_was_on_disk(self, tmp_path):
        table = pa.table(
            {
                "user_id": [1, 2],
                "item_id": ["a", "b"],
                "kind": pa.array(["click", "cart"]).cast(KIND_TYPE),
                "timestamp": pa.array([0, 1], TIME_TYPE),
            },
            schema=event_schema(string_ids=["item_id"]),
        )
        pq.write_table(table, tmp_path / "part-00000.parquet")
        read = pq.read_table(tmp_path / "part-00000.parquet")
        check_schema(read.schema, "log")
        assert read.to_pylist() == table.to_pylist()

    def test_names_every_fault_and_the_place(self):
        schema = pa.schema(
            [
                ("user_id", pa.float64()),
                ("kind", pa.string()),
                ("timestamp", pa.timestamp("ms")),
                ("shop", pa.string()),
                ("price", pa.float64()),
            ]
        )
        with pytest.raises(DataError) as error:
            check_schema(schema, "day.parquet")
        faults = str(error.value).removeprefix("day.parquet: ").split("; ")
        assert faults == [
            "column 'item_id' is missing",
            "column 'user_id' is double, expected int64 or string",
            f"column 'kind' is string, expected {KIND_TYPE}",
            "column 'timestamp' is timestamp[ms], expected timestamp[ms, tz=UTC]",
            "column 'shop' is not part of the event contract",
        ]
