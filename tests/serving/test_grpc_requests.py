"""Bytes that are no request: answered as grpc would, without what it keeps of each."""

import grpc
import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from cmdcm.serving.grpc_requests import RequestReader
from cmdcm.tests.serving.stubs import WAIT, Stubs


@pytest.fixture(scope="module")
def channel(server):
    return Stubs(server.target).channel


@pytest.mark.parametrize(
    "method",
    [
        "tensorflow.serving.PredictionService/Predict",
        "tensorflow.serving.ModelService/GetModelStatus",
        "grpc.health.v1.Health/Check",
    ],
)
def test_bytes_that_are_no_request(channel, method):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{method}")(b"\xff\xff", timeout=WAIT)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert caught.value.details() == "Exception deserializing request!"


def test_a_stream_of_answers(channel):
    watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff\xff", timeout=WAIT)
    with pytest.raises(grpc.RpcError) as caught:
        next(watched)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


def test_no_deserializer_raises():
    """A deserializer that raises is what grpc does not forget."""
    deserialize = health_pb2.HealthCheckRequest.FromString
    with pytest.raises(DecodeError):
        deserialize(b"\xff\xff")
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request, deserialize)
    details = type("Details", (), {"method": "/a/b"})()
    reading = RequestReader().intercept_service(lambda _: handler, details)
    assert reading is not None
    assert reading.request_deserializer(b"\xff\xff") is not None
    assert reading.request_deserializer(b"") == health_pb2.HealthCheckRequest()
