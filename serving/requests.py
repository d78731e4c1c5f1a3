"""Requests from the feature spec: named values in, checked arrays of the signatures' shapes out.

A `score_candidates` request carries the user side once, [1] or [1, length], and the candidate side
N times, [N] or [N, length]. Every name is checked against the spec, so that a feature that was
renamed, forgotten or misspelt is an error with its name, and never a silent default.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cmdcm.core.errors import ServingError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.serving.tensors import byte_strings

_DTYPES = {"int64": np.int64, "float32": np.float32, "string": np.object_}


def user_arrays(spec: FeatureSpec, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the user side of a request.

    Args:
        spec: The model's features.
        values: Value of each of `spec.user_inputs`: a scalar or [1]; a vector's [length] or
            [1, length]; a sequence's [k] or [1, k], k at most its length, newest first.

    Returns:
        Arrays [1] or [1, length]; sequences are padded with their default.

    Raises:
        ServingError: Names the feature that is unknown, missing or does not fit.
    """
    check_names(values, spec.user_inputs, spec, "user")
    arrays = {}
    for feature in spec.user_inputs:
        array = _typed(feature, values[feature.name])
        rank = 1 if feature.shape == "scalar" else 2
        if array.ndim == rank - 1:
            array = array[np.newaxis]
        arrays[feature.name] = _shaped(feature, array, 1)
    _check_aligned(spec, values)
    return arrays


def candidate_arrays(spec: FeatureSpec, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the candidate side of a request: [N] or [N, length] for the same N.

    Args:
        spec: The model's features.
        values: Value of each of `spec.candidate_inputs`, the candidates along the first axis.

    Raises:
        ServingError: Names the feature that is unknown, missing or does not fit; or there are no
            candidates.
    """
    check_names(values, spec.candidate_inputs, spec, "candidate")
    arrays: dict[str, np.ndarray] = {}
    count = -1
    for feature in spec.candidate_inputs:
        array = _typed(feature, values[feature.name])
        if count < 0:
            count = len(array) if array.ndim else 0
        arrays[feature.name] = _shaped(feature, array, count)
    if count < 1:
        raise ServingError(
            "a request needs at least one candidate, and candidate features as lists"
        )
    return arrays


def check_names(
    names: Iterable[str], features: Sequence[Feature], spec: FeatureSpec, side: str
) -> None:
    """Checks that exactly the `features` are named.

    Raises:
        ServingError: Names the unknown feature and the closest known one, or the missing ones.
    """
    given = set(names)
    known = {feature.name for feature in features}
    for name in sorted(given - known):
        raise ServingError(f"unknown {side} feature {name!r} in the request{_hint(name, spec)}")
    missing = [feature.name for feature in features if feature.name not in given]
    if missing:
        raise ServingError(f"missing {side} features in the request: {', '.join(missing)}")


def unknown_feature(name: str, spec: FeatureSpec) -> ServingError:
    """Returns the error for a name that the spec does not have."""
    return ServingError(f"unknown feature {name!r} in the request{_hint(name, spec)}")


def padded_size(count: int, sizes: Sequence[int]) -> int:
    """Returns the least of the ascending `sizes` that holds `count`, at most the largest.

    Example:
        >>> [padded_size(n, (1, 10, 100)) for n in (1, 2, 10, 11, 101)]
        [1, 10, 10, 100, 100]
    """
    return next((size for size in sizes if size >= count), sizes[-1])


def chunks(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields (start, stop, padded size) of each request for `count` candidates.

    Example:
        >>> list(chunks(120, (1, 10, 100)))
        [(0, 100, 100), (100, 120, 100)]
    """
    for start in range(0, count, sizes[-1]):
        stop = min(start + sizes[-1], count)
        yield start, stop, padded_size(stop - start, sizes)


def pad_rows(array: np.ndarray, size: int) -> np.ndarray:
    """Returns `array` with its last row repeated up to `size` rows.

    Example:
        >>> pad_rows(np.array([1, 2]), 4)
        array([1, 2, 2, 2])
    """
    missing = size - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, 0)])


def _typed(feature: Feature, values: Any) -> np.ndarray:
    """Returns the values in the feature's dtype; nothing is rounded on the way to an integer."""
    try:
        if feature.dtype == "string":
            return byte_strings(values)
        array = np.asarray(values)
    except ValueError as error:  # not a string, or rows of unequal length
        raise ServingError(
            f"feature {feature.name!r} should be a {feature.dtype} tensor: {error}"
        ) from error
    kinds = "biu" if feature.dtype == "int64" else "biuf"
    if array.size and array.dtype.kind not in kinds:
        raise ServingError(
            f"feature {feature.name!r} should be {feature.dtype}. Received: {array.dtype}"
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ServingError(f"feature {feature.name!r} exceeds the range of int64")
    return array.astype(_DTYPES[feature.dtype], copy=False)


def _shaped(feature: Feature, array: np.ndarray, count: int) -> np.ndarray:
    """Returns the array as [count] or [count, length]; a sequence may have been shorter."""
    expected = [count] if feature.shape == "scalar" else [count, feature.length]
    given = list(array.shape)
    fits = given == expected or (
        feature.shape == "sequence" and len(given) == 2 and given[0] == count
        and given[1] <= feature.length
    )  # fmt: skip
    if not fits:
        raise ServingError(
            f"feature {feature.name!r} ({feature.shape}) should have shape {expected}. "
            f"Received: {given}"
        )
    if given == expected:
        return array
    padded = np.full(expected, default_value(feature), dtype=array.dtype)
    padded[:, : given[1]] = array
    return padded


def default_value(feature: Feature) -> int | float | bytes:
    """Returns the feature's default as an element of its arrays."""
    default = feature.default
    return str(default).encode("utf-8") if feature.dtype == "string" else float(default)


def _check_aligned(spec: FeatureSpec, values: Mapping[str, Any]) -> None:
    """Checks that the columns of one sequence have the same number of elements."""
    for name, columns in spec.sequences().items():
        lengths = {
            column.name: np.shape(values[column.name])[-1]
            for column in columns
            if column.name in values
        }
        if len(set(lengths.values())) > 1:
            raise ServingError(f"the columns of sequence {name!r} differ in length: {lengths}")


def _hint(name: str, spec: FeatureSpec) -> str:
    if name in spec:
        return f": it is one of the {spec[name].side} features, which go elsewhere"
    close = difflib.get_close_matches(name, [f.name for f in spec.inputs], n=1, cutoff=0.0)
    return f"; the closest known one is {close[0]!r}" if close else ""
