"""Calling a running server through the official stubs alone, as any client does."""

import time

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from cmdcm.tests.serving import models

WAIT = 20.0


class Stubs:
    """Stubs on a channel of their own."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None):
        self.channel = (
            grpc.insecure_channel(target)
            if credentials is None
            else grpc.secure_channel(target, credentials)
        )
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def states(self, name="tiny") -> dict[int, str]:
        answer = self.model.GetModelStatus(status_request(name), timeout=WAIT)
        state_name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {s.version: state_name(s.state) for s in answer.model_version_status}

    def served_version(self) -> int:
        answer = self.prediction.Predict(candidates_request(), timeout=WAIT)
        return answer.model_spec.version.value

    def healthy(self, service="") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return self.health.Check(request, timeout=WAIT).status


def predict_request(inputs, name="tiny", signature="", **spec) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def candidates_request(count=3, **spec) -> predict_pb2.PredictRequest:
    inputs = {**models.user_arrays(), **models.candidate_arrays(count)}
    return predict_request(inputs, signature="score_candidates", **spec)


def status_request(name, version=None) -> get_model_status_pb2.GetModelStatusRequest:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    return request


def metadata_request(name, *fields) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return request


def failure(call, request) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=WAIT)
    return caught.value


def wait_for(condition) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
