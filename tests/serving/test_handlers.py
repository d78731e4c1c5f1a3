"""Requests that no client means to send: each is answered, with a code of the protocol."""

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from tensorflow_serving.apis import predict_pb2

from cmdcm.serving.handlers import Handlers
from cmdcm.serving.model_config import single_model_config
from cmdcm.serving.models import Models
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving.models import candidate_arrays, user_arrays

CALLERS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}


@pytest.fixture(scope="module")
def handlers(exports):
    models = Models(poll_seconds=0)
    models.reload(single_model_config("tiny", exports / "tiny"))
    yield Handlers(models, max_bytes=1 << 20)
    models.stop()


def valid_request(signature: str) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = signature
    inputs = {**user_arrays(), **candidate_arrays(2)}
    if signature == "serving_default":
        inputs = {"examples": np.array([b"", b""], object)}
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def answer(handlers, request) -> None:
    try:
        handlers.predict(request)
    except StatusError as error:
        assert error.code in CALLERS_FAULT, str(error)


@settings(max_examples=150, deadline=None)
@given(
    signature=st.sampled_from(["score_candidates", "serving_default"]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5),
)
def test_requests_with_changed_bytes(handlers, signature, changes):
    content = bytearray(valid_request(signature).SerializeToString(deterministic=True))
    for position, byte in changes:
        content[position % len(content)] = byte
    try:
        request = predict_pb2.PredictRequest.FromString(bytes(content))
    except DecodeError:
        return  # gRPC answers these
    answer(handlers, request)


@settings(max_examples=100, deadline=None)
@given(
    dtype=st.integers(0, 30) | st.sampled_from([101, 120, 999]),
    shape=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 1 << 20, 1 << 62]), max_size=4),
    values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    content=st.binary(max_size=12),
)
def test_tensors_of_any_kind(handlers, dtype, shape, values, content):
    request = valid_request("score_candidates")
    proto = request.inputs["price"]
    proto.Clear()
    proto.dtype = dtype
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    proto.int_val.extend(values)
    proto.float_val.extend(values)
    proto.tensor_content = content
    answer(handlers, request)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_examples_of_any_bytes(handlers, content):
    request = valid_request("serving_default")
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto([content]))
    answer(handlers, request)
