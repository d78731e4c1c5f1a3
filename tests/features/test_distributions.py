"""Distances against NumPy and entropies, and which distributions a feature has."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.column_statistics import COUNTED_STRINGS
from cmdcm.features.distributions import Pair, jensen_shannon, l_infinity, pairs
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.tests.features.validation_data import SPEC, sound, views

counts = st.dictionaries(st.integers(0, 9), st.integers(0, 1000), min_size=1).filter(
    lambda bins: sum(bins.values()) > 0
)


def entropy(shares: np.ndarray) -> float:
    return -sum(p * math.log2(p) for p in shares if p > 0)


@given(counts, counts)
def test_distances_against_an_independent_computation(first, second):
    p, q = (np.zeros(10), np.zeros(10))
    for array, bins in ((p, first), (q, second)):
        for place, count in bins.items():
            array[place] = count
        array /= array.sum()
    assert l_infinity(first, second) == pytest.approx(np.linalg.norm(p - q, np.inf))
    # By entropies: H(m) - (H(p) + H(q)) / 2.
    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert jensen_shannon(first, second) == pytest.approx(expected, abs=1e-12)


@given(counts, counts)
def test_distances_are_symmetric_and_in_the_unit_interval(first, second):
    for distance in (l_infinity, jensen_shannon):
        assert distance(first, second) == pytest.approx(distance(second, first), abs=1e-15)
        assert 0 <= distance(first, second) <= 1


@given(counts, st.integers(1, 50))
def test_equal_distributions_have_distance_zero(bins, factor):
    for distance in (l_infinity, jensen_shannon):
        assert distance(bins, bins) == 0
        scaled = {place: factor * count for place, count in bins.items()}
        assert distance(bins, scaled) == pytest.approx(0, abs=1e-12)


def test_disjoint_distributions_have_distance_one():
    assert l_infinity({"a": 2}, {"b": 7}) == 1
    assert jensen_shannon({1: 2, 2: 2}, {3: 5}) == 1


def of(feature: str, first: pa.Table, second: pa.Table) -> dict[str, Pair]:
    views_of = views(first), views(second)
    return {pair.name: pair for pair in pairs(SPEC[feature], *(view[feature] for view in views_of))}


def test_which_distributions_a_feature_has():
    table = sound()
    measures = {
        pair.name: pair.measure
        for feature in SPEC.inputs
        for pair in pairs(feature, *(views(table)[feature.name] for _ in range(2)))
    }
    assert measures == {
        "user_id": "linf",
        "counts[click]": "js",
        "counts[cart]": "js",
        "ages[length]": "js",
        "ages": "js",
        "hour": "linf",
        "kind": "linf",
        "price": "js",
    }


def test_strings_are_compared_value_by_value():
    first = sound(4, kind=["a", "a", "b", None])
    pair = of("kind", first, sound(4, kind=["a", "", "b", "b"]))["kind"]
    # A null is read as the default, the empty string.
    assert pair.first == {"a": 2, "b": 1, "": 1}
    assert pair.second == {"b": 2, "": 1, "a": 1}
    assert pair.distance() == 0.25


def test_identifiers_are_compared_by_their_hash():
    ids = np.arange(100)
    pair = of("user_id", sound(100, user_id=ids), sound(100, user_id=np.full(100, 7)))["user_id"]
    assert sum(pair.first.values()) == sum(pair.second.values()) == 100
    ((place, count),) = pair.second.items()
    assert count == 100
    assert pair.distance() == pytest.approx(1 - pair.first[place] / 100)


def test_missing_identifiers_count_as_the_default():
    pair = of("user_id", sound(2, user_id=[0, 5]), sound(2, user_id=[None, 5]))["user_id"]
    assert pair.distance() == 0


def test_many_strings_are_compared_by_their_hash():
    spec = FeatureSpec(
        features=(
            Feature(
                name="id", dtype="string", side="item", encoding="hash", buckets=9, table="t",
                default="",
            ),
        )
    )  # fmt: skip
    names = [f"n{i}" for i in range(COUNTED_STRINGS + 1)]
    many, few = (views(pa.table({"id": values}), spec) for values in (names, ["n1"] * 9))
    (pair,) = pairs(spec["id"], many["id"], few["id"])
    assert sum(pair.first.values()) == len(names)
    assert pair.distance() > 0.9
    missing = views(pa.table({"id": ["n1"] * 8 + [None]}), spec)
    (pair,) = pairs(spec["id"], missing["id"], many["id"])
    empty = views(pa.table({"id": ["n1"] * 8 + [""]}), spec)
    (other,) = pairs(spec["id"], empty["id"], many["id"])
    assert pair.first == other.first


def test_components_of_a_vector_are_compared_one_by_one():
    first = sound(4, counts=[[1, 0], [2, 0], [3, 0], [4, 0]])
    second = sound(4, counts=[[1, 5], [2, 5], [3, 5], None])
    found = of("counts", first, second)
    # The missing vector is read as zeros.
    assert found["counts[click]"].second == {1: 1, 2: 1, 3: 1, 0: 1}
    assert found["counts[cart]"].distance() == pytest.approx(jensen_shannon({0: 4}, {5: 3, 0: 1}))


def test_lengths_of_a_sequence_are_compared():
    first, second = sound(4, ages=[[], [1], [1], [1, 2]]), sound(4, ages=[[1]] * 4)
    pair = of("ages", first, second)["ages[length]"]
    assert pair.first == {0: 1, 1: 2, 2: 1}
    assert pair.second == {1: 4}


@given(
    st.lists(st.floats(-(2.0**80), 2.0**80, width=32), min_size=1, max_size=9), st.integers(0, 5)
)
def test_bins_do_not_depend_on_the_other_values(values, seed):
    more = [*values, 3e38, -3e38]
    few, many = (sound(len(v), seed, price=v) for v in (values, more))
    pair = of("price", few, many)["price"]
    assert pair.first.keys() <= pair.second.keys()
    assert sum(pair.second.values()) == len(more)
