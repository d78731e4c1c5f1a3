"""Requests of serialized examples, against protos built one by one."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import ServingError
from cmdcm.serving.example_requests import serialized_examples
from cmdcm.tests.serving import models

SPEC = models.SPEC


def feature(values, dtype):
    values = np.atleast_1d(values).tolist()
    if dtype == "string":
        values = [v.encode() if isinstance(v, str) else v for v in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if dtype == "int64":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def built_one_by_one(user, candidates, index):
    values = {**user, **{name: array[index] for name, array in candidates.items()}}
    features = {f.name: feature(values[f.name], f.dtype) for f in SPEC.inputs}
    return tf.train.Example(features=tf.train.Features(feature=features))


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 20), clicks=st.integers(0, 4))
def test_examples_are_those_built_one_by_one(count, clicks):
    user = {
        **models.user_values(),
        "clicked_item": np.arange(clicks),
        "clicked_age": np.arange(clicks, dtype=np.float32),
    }
    candidates = models.candidate_arrays(count)
    examples = serialized_examples(SPEC, user, candidates)
    assert len(examples) == count
    for index, example in enumerate(examples):
        got = tf.train.Example.FromString(example)
        assert got == built_one_by_one(user, candidates, index)


def test_tensorflow_parses_them_though_they_have_two_parts():
    examples = serialized_examples(SPEC, models.user_values(), models.candidate_arrays(3))
    parsed = tf.io.parse_example(
        examples,
        {
            "user_id": tf.io.FixedLenFeature([], tf.int64),
            "item_id": tf.io.FixedLenFeature([], tf.int64),
            "clicked_item": tf.io.RaggedFeature(tf.int64),
        },
    )
    assert parsed["user_id"].numpy().tolist() == [7, 7, 7]
    assert parsed["item_id"].numpy().tolist() == [0, 1, 2]
    assert parsed["clicked_item"].to_list() == [[11, 12]] * 3


def test_values_are_checked():
    with pytest.raises(ServingError, match="missing user features in the request: hour"):
        user = {name: v for name, v in models.user_values().items() if name != "hour"}
        serialized_examples(SPEC, user, models.candidate_arrays(1))
