"""Rows of a table as features of requests."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import DataError, ServingError
from cmdcm.serving.rows import check_columns, dense_arrays, feature_table, user_groups
from cmdcm.tests.serving import models
from cmdcm.tests.serving.rows import rows_table

SPEC = models.SPEC


def dense(table) -> dict[str, np.ndarray]:
    return dense_arrays(feature_table(table, SPEC), SPEC.inputs)


def replaced(table, name, values, type_=None):
    index = table.column_names.index(name)
    return table.set_column(index, name, pa.array(values, type_))


def test_columns_become_dense_arrays():
    arrays = dense(rows_table([7, 7, 8]))
    want = models.candidate_arrays(3)
    for name, array in want.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert arrays["user_id"].tolist() == [7, 7, 8]
    assert arrays["clicked_item"].tolist() == [[11, 12, 0, 0]] * 3
    assert arrays["clicked_age"].tolist() == [[5, 9, -1, -1]] * 3


def test_nulls_and_absent_columns_are_the_default():
    table = rows_table([7, 8]).drop_columns(["clicked_age", "hour"])
    table = replaced(table, "price", [None, 2.0], pa.float32())
    table = replaced(table, "brand", [None, "x"])
    table = replaced(table, "clicked_item", [None, [5]])
    table = replaced(table, "city", [None, None])
    arrays = dense(table)
    assert arrays["price"].tolist() == [1.5, 2.0]
    assert arrays["brand"].tolist() == [b"none", b"x"]
    assert arrays["clicked_item"].tolist() == [[0, 0, 0, 0], [5, 0, 0, 0]]
    assert arrays["clicked_age"].tolist() == [[-1] * 4] * 2
    assert arrays["city"].tolist() == [b"nowhere"] * 2
    assert arrays["hour"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "values", "type_"),
    [
        ("item_id", [1, 2], pa.int32()),
        ("item_id", [1.0, 2.0], pa.float64()),
        ("price", [0, 1], pa.int64()),
        ("price", [0.0, 1.0], pa.float64()),
        ("brand", ["", "b"], pa.large_string()),
        ("brand", [b"", b"b"], pa.binary()),
        ("brand", pa.array(["", "b"]).dictionary_encode(), None),
        ("clicked_item", [[1], []], pa.large_list(pa.int32())),
        ("clicked_item", [[], []], None),
        ("affinity", [[0.0, 1.0], [2.0, 3.0]], pa.list_(pa.float64(), 2)),
    ],
)
def test_other_types_of_the_same_values(name, values, type_):
    array = dense(replaced(rows_table([7, 7]), name, values, type_))[name]
    expected = values.to_pylist() if isinstance(values, pa.Array) else values
    for got, want in zip(array.tolist(), expected, strict=True):
        want = want.encode() if isinstance(want, str) else want
        assert got[: len(want)] == want if isinstance(want, list) else got == want


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("item_id", ["1", "2"], "'item_id' should be int64. Received: string"),
        ("item_id", [1.5, 2.0], "'item_id' should be int64: .*1.5"),
        ("item_id", [[1], [2]], "'item_id' should be int64. Received: list"),
        ("brand", [1, 2], "'brand' should be string. Received: int64"),
        ("clicked_item", [1, 2], "'clicked_item' should be list of int64. Received: int64"),
        ("clicked_item", [[1, None], [2]], "'clicked_item' has a null inside a list"),
        ("clicked_item", [[1] * 5, [2]], "at most 4 elements. Received: 5"),
        ("affinity", [[1.0], [1.0, 2.0]], "lists of length 2. Received: lengths from 1 to 2"),
    ],
)
def test_columns_that_do_not_fit(name, values, message):
    with pytest.raises(DataError, match=message):
        dense(replaced(rows_table([7, 7]), name, values))


def test_unknown_missing_and_kept_columns(caplog):
    names = rows_table([7]).column_names
    check_columns(names, SPEC, ["key"])
    with pytest.raises(ServingError, match="unknown feature 'key' in the request"):
        check_columns(names, SPEC, [])
    with pytest.raises(ServingError, match=r"'itm_id'.*closest known one is 'item_id'"):
        check_columns([*names, "itm_id"], SPEC, ["key"])
    with pytest.raises(DataError, match=r"columns to keep are not in the input: \['nothing'\]"):
        check_columns(names, SPEC, ["key", "nothing"])
    without = [name for name in names if name not in ("price", "affinity", "city")]
    with pytest.raises(ServingError, match="missing features in the input: price, affinity"):
        check_columns(without, SPEC, ["key"])


def test_user_features_may_be_missing_with_a_warning(caplog):
    names = [n for n in rows_table([7]).column_names if n not in ("city", "clicked_item")]
    with caplog.at_level("WARNING", logger="absl"):
        check_columns(names, SPEC, ["key"])
    assert "take their default: city, clicked_item" in caplog.text


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, float("nan")])), max_size=30))
def test_groups_are_runs_of_equal_users(rows):
    arrays: dict[str, np.ndarray] = {
        "a": np.array([[row[0], 1] for row in rows], np.int64).reshape(len(rows), 2),
        "b": np.array([row[1] for row in rows], np.float32),
        "c": np.array([b"same"] * len(rows), object),
    }
    want = [len(list(run)) for _, run in itertools.groupby(rows, key=str)]
    got = [stop - start for start, stop in user_groups(arrays, len(rows))] if rows else []
    assert got == want
