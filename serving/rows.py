"""Rows of a table -> the features of scoring requests: checked, cast, and dense.

A null is the feature's default, as it was in training. A column that is absent is an error for a
scalar or vector of the candidate side; for the user side and for sequences it is the default, with
a warning, since a new user has none.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from cmdcm.core.errors import DataError, ServingError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.serving.requests import default_value, unknown_feature

_ARROW = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.large_binary()}
_NUMPY = {"int64": np.int64, "float32": np.float32, "string": np.object_}


def check_columns(names: Sequence[str], spec: FeatureSpec, keep: Sequence[str]) -> None:
    """Checks a table's columns against the spec; warns of features that take their default.

    Args:
        names: The table's columns. Labels and other columns of the spec may be there.
        spec: The model's features.
        keep: Columns that are copied to the output, and need not be in the spec.

    Raises:
        ServingError: Names an unknown column, or the features that are missing.
        DataError: A column to keep is not there.
    """
    for name in names:
        if name not in spec and name not in keep:
            raise unknown_feature(name, spec)
    absent = sorted(set(keep) - set(names))
    if absent:
        raise DataError(f"columns to keep are not in the input: {absent}; it has {list(names)}")
    missing = [feature for feature in spec.inputs if feature.name not in names]
    needed = [f.name for f in missing if not _optional(f)]
    if needed:
        raise ServingError(f"missing features in the input: {', '.join(needed)}")
    if missing:
        logging.warning(
            "features missing in the input take their default: %s",
            ", ".join(feature.name for feature in missing),
        )


def feature_table(table: pa.Table, spec: FeatureSpec) -> pa.Table:
    """Returns the model's inputs among the columns, cast to the spec's types.

    Raises:
        DataError: Names the column whose type or length does not fit.
    """
    columns = {
        feature.name: _cast(feature, table.column(feature.name))
        for feature in spec.inputs
        if feature.name in table.column_names
    }
    return pa.table(columns)


def dense_arrays(table: pa.Table, features: Sequence[Feature]) -> dict[str, np.ndarray]:
    """Returns columns of a `feature_table` as [rows] or [rows, length]; absent ones as default."""
    return {feature.name: _dense(feature, table) for feature in features}


def user_groups(arrays: Mapping[str, np.ndarray], rows: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of each run of consecutive rows that are equal in all `arrays`.

    Example:
        >>> list(user_groups({"user": np.array([7, 7, 8])}, 3))
        [(0, 2), (2, 3)]
    """
    changed = np.zeros(max(rows - 1, 0), dtype=bool)
    for array in arrays.values():
        differs = array[1:] != array[:-1]
        if array.dtype.kind == "f":
            differs &= ~(np.isnan(array[1:]) & np.isnan(array[:-1]))
        changed |= differs if differs.ndim == 1 else differs.any(axis=1)
    bounds = [0, *(np.flatnonzero(changed) + 1).tolist(), rows]
    yield from itertools.pairwise(bounds)


def _optional(feature: Feature) -> bool:
    return feature.side in ("user", "context") or feature.shape == "sequence"


def _is_list(type_: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)


def _cast(feature: Feature, column: pa.ChunkedArray) -> pa.Array:
    """Casts a column; numbers in strings and fractions in integers are errors."""
    target = _ARROW[feature.dtype]
    nested = feature.shape != "scalar"
    array = column.combine_chunks()
    value_type = array.type.value_type if _is_list(array.type) else array.type
    if pa.types.is_dictionary(value_type):
        value_type = value_type.value_type
    if not pa.types.is_null(array.type):
        text = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
        text |= pa.types.is_binary(value_type) or pa.types.is_large_binary(value_type)
        empty = pa.types.is_null(value_type)  # nothing but empty lists
        if nested != _is_list(array.type) or (text != (feature.dtype == "string") and not empty):
            expected = f"list of {feature.dtype}" if nested else feature.dtype
            raise DataError(f"column {feature.name!r} should be {expected}. Received: {array.type}")
    try:
        # A float's precision may be lost, an integer's value may not.
        array = array.cast(
            pa.large_list(target) if nested else target, safe=feature.dtype != "float32"
        )
    except pa.ArrowException as error:
        raise DataError(f"column {feature.name!r} should be {feature.dtype}: {error}") from error
    if nested:
        _check_lengths(feature, array)
    return array


def _check_lengths(feature: Feature, array: pa.LargeListArray) -> None:
    if array.flatten().null_count:
        raise DataError(f"column {feature.name!r} has a null inside a list")
    lengths = pc.list_value_length(array).drop_null()
    if not len(lengths):
        return
    least, most = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    if feature.shape == "vector" and (least, most) != (feature.length, feature.length):
        raise DataError(
            f"column {feature.name!r} should have lists of length {feature.length}. "
            f"Received: lengths from {least} to {most}"
        )
    if most > feature.length:
        raise DataError(
            f"column {feature.name!r} should have lists of at most {feature.length} elements. "
            f"Received: {most}"
        )


def _dense(feature: Feature, table: pa.Table) -> np.ndarray:
    nested = feature.shape != "scalar"
    shape = (table.num_rows, feature.length) if nested else (table.num_rows,)
    dense = np.full(shape, default_value(feature), dtype=_NUMPY[feature.dtype])
    if feature.name not in table.column_names or not table.num_rows:
        return dense
    array = table.column(feature.name).combine_chunks()
    if nested:
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        filled = np.arange(feature.length) < lengths[:, np.newaxis]
        dense[filled] = array.flatten().to_numpy(zero_copy_only=False)
    else:
        filled = array.is_valid().to_numpy(zero_copy_only=False)
        dense[filled] = array.drop_null().to_numpy(zero_copy_only=False)
    return dense
