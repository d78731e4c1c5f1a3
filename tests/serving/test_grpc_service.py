"""The gRPC services of a running embedded server, called through the official stubs alone."""

import re
import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ServingError
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving import models
from cmdcm.tests.serving.conftest import FAST_POLL
from cmdcm.tests.serving.stubs import (
    WAIT,
    Stubs,
    candidates_request,
    failure,
    metadata_request,
    predict_request,
    status_request,
    wait_for,
)

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def stubs(server):
    made = Stubs(server.target)
    yield made
    made.channel.close()


@pytest.fixture(scope="module")
def v1_stubs(v1_server):
    made = Stubs(v1_server.target)
    yield made
    made.channel.close()


def test_predict_echoes_name_version_and_signature(stubs):
    answer = stubs.prediction.Predict(candidates_request(4), timeout=WAIT)
    assert answer.model_spec.name == "tiny"
    assert answer.model_spec.version.value == 2
    assert answer.model_spec.signature_name == "score_candidates"
    want = models.expected(models.user_arrays(), models.candidate_arrays(4), 2)
    assert set(answer.outputs) == set(want)
    for name, values in want.items():
        # Clients of TensorFlow Serving read the field of the type.
        np.testing.assert_allclose(list(answer.outputs[name].float_val), values, atol=1e-6)


def test_the_empty_signature_name_is_serving_default(stubs):
    features = {
        "user_id": tf.train.Feature(int64_list=tf.train.Int64List(value=[7])),
        "user_counts": tf.train.Feature(float_list=tf.train.FloatList(value=[0, 0, 0])),
        "affinity": tf.train.Feature(float_list=tf.train.FloatList(value=[0, 0])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    request = predict_request({"examples": [example.SerializeToString()] * 2})
    answer = stubs.prediction.Predict(request, timeout=WAIT)
    assert answer.model_spec.signature_name == "serving_default"
    assert list(answer.outputs["cart_effect"].float_val) == [2.0, 2.0]


def test_output_filter(stubs):
    request = candidates_request()
    request.output_filter.append("p_cart")
    assert set(stubs.prediction.Predict(request, timeout=WAIT).outputs) == {"p_cart"}


def test_tensorflow_1_model(v1_stubs):
    request = predict_request({"x": np.array([[1, 2]], np.float32)}, name="v1")
    answer = v1_stubs.prediction.Predict(request, timeout=WAIT)
    assert list(answer.outputs["y"].float_val) == [8.0]


def with_filter(*names) -> predict_pb2.PredictRequest:
    request = candidates_request()
    request.output_filter.extend(names)
    return request


def with_input(name, proto) -> predict_pb2.PredictRequest:
    request = candidates_request()
    request.inputs[name].CopyFrom(proto)
    return request


def without_input(name) -> predict_pb2.PredictRequest:
    request = candidates_request()
    del request.inputs[name]
    return request


HUGE = tf.make_tensor_proto(np.zeros(1, np.float32))
HUGE.tensor_shape.dim[0].size = 1 << 50
HUGE.ClearField("float_val")

PREDICT_FAILURES = {
    "no model spec": (predict_pb2.PredictRequest(), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
    "no name": (predict_request({}, name=""), Code.INVALID_ARGUMENT, "no name"),
    "unknown model": (candidates_request(name="other"), Code.NOT_FOUND, "model other"),
    "unknown version": (candidates_request(version=9), Code.NOT_FOUND, "Specific 9"),
    "version not served": (candidates_request(version=1), Code.NOT_FOUND, "Specific 1"),
    "unknown label": (candidates_request(label="stable"), Code.INVALID_ARGUMENT, "label: stable"),
    "unknown signature": (
        predict_request({}, signature="other"),
        Code.FAILED_PRECONDITION,
        'signature key "other" not found',
    ),
    "missing input": (without_input("hour"), Code.INVALID_ARGUMENT, "required: {hour}"),
    "extra input": (with_input("colour", HUGE), Code.INVALID_ARGUMENT, "colour"),
    "wrong dtype": (
        with_input("hour", tf.make_tensor_proto([1.0])),
        Code.INVALID_ARGUMENT,
        "input 'hour' should be int64",
    ),
    "wrong rank": (
        with_input("price", tf.make_tensor_proto([[1.0]])),
        Code.INVALID_ARGUMENT,
        "input 'price' should have shape [?]. Received: [1,1]",
    ),
    "wrong shape": (
        with_input("affinity", tf.make_tensor_proto(np.zeros((3, 9), np.float32))),
        Code.INVALID_ARGUMENT,
        "should have shape [?,2]",
    ),
    "rows that differ": (
        with_input("price", tf.make_tensor_proto(np.zeros(5, np.float32))),
        Code.INVALID_ARGUMENT,
        "",
    ),
    "unknown output": (with_filter("p_x"), Code.INVALID_ARGUMENT, "not found in signature: p_x"),
    "repeated output": (
        with_filter("p_cart", "p_cart"),
        Code.INVALID_ARGUMENT,
        "duplicate output tensor alias: p_cart",
    ),
    "a tensor that claims a petabyte": (
        with_input("price", HUGE),
        Code.INVALID_ARGUMENT,
        "tensor parsing error: price",
    ),
    "not an example": (
        predict_request({"examples": [b"\xff\xff"]}),
        Code.INVALID_ARGUMENT,
        "",
    ),
}


@pytest.mark.parametrize("case", PREDICT_FAILURES)
def test_predict_failures(stubs, case):
    request, code, message = PREDICT_FAILURES[case]
    error = failure(stubs.prediction.Predict, request)
    assert error.code() == code
    assert message in error.details()


def test_messages_are_cut_at_1024_characters(stubs):
    error = failure(stubs.prediction.Predict, predict_request({"x" * 5000: [1]}))
    assert len(error.details()) == 1024


def test_metadata_lists_the_signatures(stubs):
    request = metadata_request("tiny", "signature_def")
    answer = stubs.prediction.GetModelMetadata(request, timeout=WAIT)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("tiny", 2)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    inputs = signatures.signature_def["score_candidates"].inputs
    assert set(inputs) == {feature.name for feature in models.SPEC.inputs}
    assert [dim.size for dim in inputs["affinity"].tensor_shape.dim] == [-1, 2]
    assert set(signatures.signature_def["serving_default"].outputs) == set(models.OUTPUTS)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]),
            Code.INVALID_ARGUMENT,
            "Missing ModelSpec",
        ),
        (metadata_request("tiny"), Code.INVALID_ARGUMENT, "at least one metadata_field"),
        (metadata_request("tiny", "weights"), Code.INVALID_ARGUMENT, "weights is not supported"),
        (metadata_request("", "signature_def"), Code.INVALID_ARGUMENT, "no name"),
        (metadata_request("other", "signature_def"), Code.NOT_FOUND, "other"),
    ],
)
def test_metadata_failures(stubs, request_, code, message):
    error = failure(stubs.prediction.GetModelMetadata, request_)
    assert error.code() == code
    assert message in error.details()


def test_status_of_one_and_of_all_versions(stubs):
    assert stubs.states() == {2: "AVAILABLE"}
    answer = stubs.model.GetModelStatus(status_request("tiny", 2), timeout=WAIT)
    (status,) = answer.model_version_status
    assert (status.version, status.status.error_code) == (2, 0)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (get_model_status_pb2.GetModelStatusRequest(), Code.INVALID_ARGUMENT),
        (status_request(""), Code.INVALID_ARGUMENT),
        (status_request("other"), Code.NOT_FOUND),
        (status_request("tiny", 77), Code.NOT_FOUND),
    ],
)
def test_status_failures(stubs, request_, code):
    assert failure(stubs.model.GetModelStatus, request_).code() == code


def test_health(stubs):
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stubs.healthy() == serving
    assert stubs.healthy("tensorflow.serving.PredictionService") == serving
    request = health_pb2.HealthCheckRequest(service="other")
    assert failure(stubs.health.Check, request).code() == Code.NOT_FOUND


def test_a_message_above_the_limit_is_refused(exports):
    config = ServingConfig(port=0, rest_port=-1, max_message_mb=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        stubs = Stubs(server.target)
        large = predict_request({"x": np.zeros((1 << 18, 2), np.float32)}, name="v1")
        error = failure(stubs.prediction.Predict, large)
        assert error.code() == Code.RESOURCE_EXHAUSTED
        small = predict_request({"x": np.zeros((1, 2), np.float32)}, name="v1")
        stubs.prediction.Predict(small, timeout=WAIT)


def test_a_deadline_ends_a_slow_call_and_the_server_goes_on(v1_stubs):
    wait = predict_request({"token": np.float32(1)}, name="v1", signature="wait")
    with pytest.raises(grpc.RpcError) as caught:
        v1_stubs.prediction.Predict(wait, timeout=0.1)
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    release = predict_request({"token": np.float32(2)}, name="v1", signature="release")
    v1_stubs.prediction.Predict(release, timeout=WAIT)  # lets the abandoned call end
    v1_stubs.prediction.Predict(release, timeout=WAIT)
    answer = v1_stubs.prediction.Predict(wait, timeout=WAIT)
    assert list(answer.outputs["taken"].float_val) == [3.0]


def test_work_whose_caller_has_left_is_not_run(exports):
    config = ServingConfig(port=0, rest_port=-1, grpc_max_threads=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        stubs = Stubs(server.target)
        wait = predict_request({"token": np.float32(1)}, name="v1", signature="wait")
        under_way = stubs.prediction.Predict.future(wait, timeout=WAIT)
        served = server.models._served["v1"].versions._serving[1]
        wait_for(lambda: served.users)
        # The only thread is busy; this call would set the token that `wait` answers with.
        late = predict_request({"token": np.float32(9)}, name="v1", signature="release")
        with pytest.raises(grpc.RpcError) as caught:
            stubs.prediction.Predict(late, timeout=0.2)
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        served.servable.predict("release", {"token": np.array(2, np.float32)})
        assert list(under_way.result().outputs["taken"].float_val) == [3.0]
        other = predict_request({"x": np.ones((1, 2), np.float32)}, name="v1")
        stubs.prediction.Predict(other, timeout=WAIT)  # comes after `late`
        again = stubs.prediction.Predict.future(wait, timeout=WAIT)
        wait_for(lambda: served.users)
        assert not again.done()
        served.servable.predict("release", {"token": np.array(5, np.float32)})
        assert list(again.result().outputs["taken"].float_val) == [6.0]


def test_calls_above_the_bound_are_refused_and_the_others_answered(exports):
    config = ServingConfig(port=0, rest_port=-1, grpc_max_threads=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        stubs = Stubs(server.target)
        wait = predict_request({"token": np.float32(1)}, name="v1", signature="wait")
        busy = stubs.prediction.Predict.future(wait, timeout=WAIT)
        served = server.models._served["v1"].versions._serving[1]
        wait_for(lambda: served.users)
        request = predict_request({"x": np.ones((1, 2), np.float32)}, name="v1")
        calls = [stubs.prediction.Predict.future(request, timeout=WAIT) for _ in range(60)]
        try:
            refused = [call for call in calls if _code(call, 0.2) not in (None, Code.OK)]
        finally:
            served.servable.predict("release", {"token": np.array(2, np.float32)})
        assert {(call.code(), call.details()) for call in refused} == {
            (Code.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
        }
        busy.result()
        answered = [call for call in calls if call not in refused]
        assert len(answered) >= 30
        assert all(call.result().outputs["y"].float_val == [5.0] for call in answered)
        page = server.metrics.page().decode()
    counted = 'request_count{model_name="",status="RESOURCE_EXHAUSTED"}'
    assert f":tensorflow:serving:{counted} {len(refused)}.0\n" in page
    # The wait for the thread is part of the latency: each waited 0.2 s or more.
    (latency,) = re.findall(r"serving:request_latency_sum\S+ (\S+)", page)
    assert float(latency) >= 0.2e6 * len(answered)


def test_the_bound_of_calls_can_be_set(exports):
    config = ServingConfig(port=0, rest_port=-1, grpc_max_threads=1, max_calls_a_thread=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        stubs = Stubs(server.target)
        wait = predict_request({"token": np.float32(1)}, name="v1", signature="wait")
        busy = stubs.prediction.Predict.future(wait, timeout=WAIT)
        served = server.models._served["v1"].versions._serving[1]
        wait_for(lambda: served.users)
        try:
            assert failure(stubs.prediction.Predict, wait).code() == Code.RESOURCE_EXHAUSTED
        finally:
            served.servable.predict("release", {"token": np.array(2, np.float32)})
        busy.result()


def _code(call, seconds) -> grpc.StatusCode | None:
    try:
        call.result(seconds)
    except grpc.FutureTimeoutError:
        return None
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


def test_a_client_that_disconnects_leaves_the_server_as_it_was(v1_server, v1_stubs):
    request = predict_request({"x": np.ones((1000, 2), np.float32)}, name="v1")
    for _ in range(20):
        gone = Stubs(v1_server.target)
        gone.prediction.Predict.future(request, timeout=WAIT)
        gone.channel.close()
    answer = v1_stubs.prediction.Predict(request, timeout=WAIT)
    assert list(answer.outputs["y"].float_val) == [5.0] * 1000


def test_versions_are_swapped_without_a_failed_request(base, exports):
    with EmbeddedServer(base, "tiny", FAST_POLL) as server:
        versions, failures = [], []
        stop = threading.Event()

        def call() -> None:
            stubs = Stubs(server.target)
            while not stop.is_set():
                try:
                    answer = stubs.prediction.Predict(candidates_request(2), timeout=WAIT)
                    version = answer.model_spec.version.value
                    # Versions 3 and 4 are copies of 1.
                    assert answer.outputs["cart_effect"].float_val[0] == (2 if version == 2 else 1)
                    versions.append(version)
                except Exception as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        stubs = Stubs(server.target)
        for version in (2, 3, 4):
            source = exports / "tiny" / ("2" if version == 2 else "1")
            shutil.copytree(source, base / ".staging")
            (base / ".staging").rename(base / str(version))
            wait_for(lambda wanted=version: stubs.states().get(wanted) == "AVAILABLE")
            wait_for(lambda wanted=version: stubs.states()[wanted - 1] == "END")
            before = len(versions)
            wait_for(lambda seen=before: len(versions) > seen + 3 or failures)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert set(versions) == {1, 2, 3, 4}


def test_a_tampered_version_never_serves(base, exports):
    with EmbeddedServer(base, "tiny", FAST_POLL) as server:
        stubs = Stubs(server.target)
        shutil.copytree(exports / "tiny" / "2", base / ".staging")
        (base / ".staging" / "assets.extra" / "feature_spec.json").write_text("{}")
        (base / ".staging").rename(base / "2")
        wait_for(lambda: stubs.states().get(2) == "END")
        answer = stubs.model.GetModelStatus(status_request("tiny", 2), timeout=WAIT)
        assert "feature_spec.json: SHA-256 differs" in (
            answer.model_version_status[0].status.error_message
        )
        assert failure(stubs.prediction.Predict, candidates_request(version=2)).code() == (
            Code.NOT_FOUND
        )
        assert (
            stubs.prediction.Predict(candidates_request(), timeout=WAIT).model_spec.version.value
            == 1
        )


def test_a_version_copied_file_by_file_serves_when_it_is_complete(base, exports):
    source = exports / "tiny" / "2"
    with EmbeddedServer(base, "tiny", FAST_POLL) as server:
        stubs = Stubs(server.target)
        (base / "2").mkdir()
        # The worst order: the model file and the manifest come before the variables.
        shutil.copy(source / "saved_model.pb", base / "2")
        shutil.copy(source / "manifest.json", base / "2")
        wait_for(lambda: stubs.states().get(2) == "END")
        assert (
            stubs.prediction.Predict(candidates_request(), timeout=WAIT).model_spec.version.value
            == 1
        )
        shutil.copytree(source, base / "2", dirs_exist_ok=True)
        wait_for(lambda: stubs.states()[2] == "AVAILABLE")


def test_stopping_drains_the_calls_under_way(exports):
    server = EmbeddedServer(exports / "v1", "v1", FAST_POLL)
    server.start()
    stubs = Stubs(server.target)
    wait = predict_request({"token": np.float32(1)}, name="v1", signature="wait")
    release = predict_request({"token": np.float32(4)}, name="v1", signature="release")
    under_way = stubs.prediction.Predict.future(wait, timeout=WAIT)
    wait_for(lambda: server.models._served["v1"].versions._serving[1].users)
    health = stubs.health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT)
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    with server.models.use(model_pb2.ModelSpec(name="v1")) as servable:
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        wait_for(lambda: failed_to_connect(server.target, wait))
        assert not under_way.done()
        inputs = {"token": np.array(release.inputs["token"].float_val[0], np.float32)}
        servable.predict("release", inputs)
        assert list(under_way.result().outputs["taken"].float_val) == [5.0]
    stopper.join(WAIT)
    assert not stopper.is_alive()
    assert server.models.available("v1") == []


def failed_to_connect(target, request) -> bool:
    stubs = Stubs(target)
    try:
        stubs.states("v1")
    except grpc.RpcError as error:
        return error.code() == Code.UNAVAILABLE
    finally:
        stubs.channel.close()
    return False


def test_a_busy_port_is_an_error(server, exports):
    config = ServingConfig(port=server.port, rest_port=-1)
    with pytest.raises(ServingError, match=r"cannot listen on 127\.0\.0\.1"):
        EmbeddedServer(exports / "tiny", "tiny", config).start()
    config = ServingConfig(port=0, rest_port=server.rest_port)
    with pytest.raises(ServingError, match="--rest_api_port"):
        EmbeddedServer(exports / "tiny", "tiny", config).start()
