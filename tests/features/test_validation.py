"""Checks of one data set: what triggers each anomaly, and the near miss that does not."""

import math
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

from cmdcm.features.buckets import collision_rate
from cmdcm.features.schema import SERVING, TRAINING, schema_proto
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.validation import check_schema, check_values
from cmdcm.tests.features.validation_data import SPEC, codes, collector, sound, views


def schema_codes(table, schema=None, environment=TRAINING, **settings):
    config, anomalies = collector(**settings)
    check_schema(
        views(table), schema or schema_proto(SPEC), environment, "schema", config, anomalies
    )
    return codes(anomalies)


def value_codes(table, **settings):
    config, anomalies = collector(**settings)
    check_values(views(table), SPEC, "data", config, anomalies)
    return codes(anomalies)


@given(st.integers(0, 99), st.integers(10, 60))
def test_a_sound_data_set_has_no_anomaly(seed, rows):
    table = sound(rows, seed)
    assert schema_codes(table) == set()
    assert value_codes(table) == set()


def edited(name: str, text: str) -> schema_pb2.Schema:
    """The schema with fields of one feature merged in."""
    schema = schema_proto(SPEC)
    feature = next(f for f in schema.feature if f.name == name)
    text_format.Merge(text, feature)
    return schema


def test_feature_missing():
    assert schema_codes(sound(price=None)) == {("feature_missing", "price")}
    assert schema_codes(sound(price=[None] * 100)) == {("feature_missing", "price")}
    assert schema_codes(sound(price=[None] * 99 + [1.0])) == set()


def test_a_feature_without_presence_or_out_of_production_may_be_missing():
    optional = edited("price", "")
    next(f for f in optional.feature if f.name == "price").ClearField("presence")
    for schema in (optional, edited("price", "lifecycle_stage: DEPRECATED")):
        table = sound(price=None)
        assert schema_codes(table, schema) == set()


def test_feature_new():
    schema = schema_proto(SPEC)
    del schema.feature[5]
    assert schema_codes(sound(), schema) == {("feature_new", "price")}
    assert schema_codes(sound(price=None), schema) == set()


def test_a_feature_of_another_environment_is_new():
    labels = {("feature_new", f.name) for f in SPEC.features if not f.is_input}
    assert schema_codes(sound(), environment=SERVING) == labels
    without: dict[str, Any] = {f.name: None for f in SPEC.features if not f.is_input}
    assert schema_codes(sound(**without), environment=SERVING) == set()
    only = edited("price", f'in_environment: "{SERVING}"')
    assert schema_codes(sound(**without), only, environment=SERVING) == set()


def test_type():
    schema = schema_proto(SPEC)
    for feature in schema.feature:
        if feature.name == "price":
            feature.type = schema_pb2.FeatureType.BYTES
    assert schema_codes(sound(), schema) == {("type", "price")}


def test_length():
    assert schema_codes(sound(3, ages=[[1, 2, 3], [], [1]])) == set()
    assert schema_codes(sound(3, ages=[[1, 2, 3, 4], [], [1]])) == {("length", "ages")}
    assert schema_codes(sound(2, counts=[[1, 2], [1]])) == {("length", "counts")}
    assert schema_codes(sound(2, counts=[[1, 2], None])) == set()
    at_least_one = edited("ages", "value_count { min: 1 }")
    assert schema_codes(sound(2, ages=[[1], [1, 2]]), at_least_one) == set()
    assert schema_codes(sound(2, ages=[[1], []]), at_least_one) == {("length", "ages")}


def test_presence():
    assert schema_codes(sound(4, direct=[0, 1, None, 1])) == {("presence", "direct")}
    half = edited("price", "presence { min_fraction: 0.5 }")
    assert schema_codes(sound(4, price=[1.0, 2.0, None, None]), half) == set()
    assert schema_codes(sound(4, price=[1.0, None, None, None]), half) == {("presence", "price")}


def test_out_of_range():
    assert schema_codes(sound(2, hour=[0, 23])) == set()
    assert schema_codes(sound(2, hour=[0, 24])) == {("out_of_range", "hour")}
    assert schema_codes(sound(2, hour=[-1, 23])) == {("out_of_range", "hour")}
    cheap = edited("price", "float_domain { min: 1 max: 9.5 }")
    assert schema_codes(sound(2, price=[1.0, 9.5]), cheap) == set()
    assert schema_codes(sound(2, price=[1.0, 9.75]), cheap) == {("out_of_range", "price")}
    assert schema_codes(sound(2, price=[0.5, 2.0]), cheap) == {("out_of_range", "price")}


def test_both_ends_of_a_range_are_told_apart():
    config, anomalies = collector()
    columns = views(sound(2, hour=[-3, 30]))
    check_schema(columns, schema_proto(SPEC), TRAINING, "schema", config, anomalies)
    assert [(a.value, a.bound) for a in anomalies.found] == [(-3, 0), (30, 23)]


def test_vocabulary_coverage():
    kinds = ["a"] * 99 + ["c"]
    assert schema_codes(sound(kind=kinds)) == set()
    kinds[0] = "c"
    assert schema_codes(sound(kind=kinds)) == {("vocabulary_coverage", "kind")}
    assert schema_codes(sound(kind=kinds), min_vocabulary_coverage=0.98) == set()
    # Nulls are no values.
    assert schema_codes(sound(kind=["a"] * 9 + [None] * 91)) == set()


def test_vocabulary_coverage_of_many_strings_and_of_a_named_domain():
    names = ["a"] * 98_000 + [f"n{i}" for i in range(2_000)]
    assert schema_codes(sound(100_000, kind=names), min_vocabulary_coverage=0.98) == set()
    assert schema_codes(sound(100_000, kind=names)) == {("vocabulary_coverage", "kind")}
    schema = schema_proto(SPEC)
    kind = next(f for f in schema.feature if f.name == "kind")
    kind.domain = "kinds"
    schema.string_domain.add(name="kinds", value=["a"])
    assert schema_codes(sound(4, kind=["a"] * 4), schema) == set()
    assert schema_codes(sound(4, kind=["a", "a", "a", "b"]), schema) == {
        ("vocabulary_coverage", "kind")
    }


def test_negative_value():
    assert value_codes(sound(2, counts=[[0, 0], [0, 0]])) == set()
    assert value_codes(sound(2, counts=[[0, 0], [0, -1]])) == {("negative_value", "counts")}
    assert value_codes(sound(2, price=[0.0, -0.5])) == {("negative_value", "price")}
    assert value_codes(sound(2, ages=[[0], [-1]])) == {("negative_value", "ages")}
    assert value_codes(sound(2, user_id=[-1, 3])) == set()


def test_label_value():
    assert value_codes(sound(2, direct=[0, 1])) == set()
    assert value_codes(sound(2, direct=[0, 2])) == {("label_value", "direct")}
    assert value_codes(sound(2, direct=[-1, 1])) == {("label_value", "direct")}


def test_not_finite():
    assert value_codes(sound(2, price=[1.0, 3e38])) == set()
    for value in (math.nan, math.inf):
        assert value_codes(sound(2, price=[1.0, value])) == {("not_finite", "price")}


def test_null_rate():
    prices = [1.0] * 50 + [None] * 50
    assert value_codes(sound(price=prices)) == set()
    prices[0] = None
    assert value_codes(sound(price=prices)) == {("null_rate", "price")}
    assert value_codes(sound(price=prices), max_null_rate=0.51) == set()
    assert value_codes(sound(price=prices), exclude=("price",)) == set()


def test_hash_collision_rate():
    # 1000 buckets: 700 ids lose 28 %, 800 ids 31 %; the number of ids is estimated.
    assert value_codes(sound(700, user_id=np.arange(700))) == set()
    assert value_codes(sound(850, user_id=np.arange(850))) == {("hash_collision_rate", "user_id")}


@pytest.mark.parametrize(("distinct", "buckets"), [(1, 7), (10, 7), (300, 1000), (50, 5)])
def test_collision_rate_against_throwing_ids_at_buckets(distinct, buckets):
    random = np.random.default_rng(0)
    occupied = [len(np.unique(random.integers(0, buckets, distinct))) for _ in range(4_000)]
    expected = (distinct - np.mean(occupied)) / distinct
    assert collision_rate(distinct, buckets) == pytest.approx(expected, abs=0.005)


def test_no_value_is_no_fault_of_values():
    spec = FeatureSpec(features=SPEC.features)
    config, anomalies = collector()
    check_values(views(sound(0), spec), spec, "data", config, anomalies)
    assert codes(anomalies) == set()


def test_an_anomaly_says_what_was_found_and_what_to_do():
    config, anomalies = collector()
    check_values(views(sound(2, price=[1.0, -2.0])), SPEC, "data", config, anomalies)
    (anomaly,) = anomalies.found
    assert anomaly.to_json() == {
        "code": "negative_value",
        "severity": "error",
        "source": "data",
        "feature": "price",
        "value": -2,
        "bound": 0,
        "message": anomaly.message,
    }
    assert "price holds -2" in anomaly.message and "correct it" in anomaly.message
