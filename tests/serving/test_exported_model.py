"""Classify, Regress and MultiInference of a cmdcm export over gRPC and REST: its model's scores."""

import base64
import http.client
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from cmdcm.core.config import ServingConfig
from cmdcm.export.publish import export_model
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import parse_examples
from cmdcm.features.tfrecord import read_records
from cmdcm.serving.inference import CLASSIFY_METHOD, REGRESS_METHOD
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.export.models import model_of
from cmdcm.tests.serving.stubs import WAIT, Stubs, failure

pytestmark = pytest.mark.slow

CLASSES = ["p_direct", "p_cart", "p_delayed", "p_conversion"]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def data(small_world):
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def model_and_server(data, small_world, tmp_path_factory):
    base = tmp_path_factory.mktemp("exported") / "cmdcm"
    model, config = model_of(data, small_world.config, "cmdcm")
    export_model(model, base, config, data)
    with EmbeddedServer(base, "cmdcm", ServingConfig(port=0, rest_port=0)) as server:
        yield model, server


@pytest.fixture(scope="module")
def server(model_and_server):
    return model_and_server[1]


@pytest.fixture(scope="module")
def prediction(server):
    stubs = Stubs(server.target)
    yield stubs.prediction
    stubs.channel.close()


@pytest.fixture(scope="module")
def records(data) -> list[bytes]:
    """Real examples, of several users."""
    return list(read_records(data.files("test")[0]))[:25]


@pytest.fixture(scope="module")
def expected(model_and_server, data, records):
    """The model's own scores of the records: class scores [N, 4] and values [N]."""
    model, _ = model_and_server
    features = parse_examples(tf.constant(records), data.spec.inputs)
    scores = model.scores(model(features), features)
    return np.stack([scores[name] for name in CLASSES], axis=1), np.array(scores["p_conversion"])


def filled(request, records, signature):
    request.model_spec.name = "cmdcm"
    request.model_spec.signature_name = signature
    for record in records:
        request.input.example_list.examples.add().ParseFromString(record)
    return request


def classification(records, signature="classify"):
    return filled(classification_pb2.ClassificationRequest(), records, signature)


def regression(records, signature="regress"):
    return filled(regression_pb2.RegressionRequest(), records, signature)


def multi(records, *tasks):
    request = inference_pb2.MultiInferenceRequest()
    request.input.CopyFrom(regression(records).input)
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "cmdcm"
        task.model_spec.signature_name = signature
    return request


def check_classes(result, expected) -> None:
    for row in result.classifications:
        assert [each.label for each in row.classes] == CLASSES
    got = [[each.score for each in row.classes] for row in result.classifications]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def check_values(result, expected) -> None:
    got = [row.value for row in result.regressions]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_classify_regress_and_multi_inference_answer_the_models_scores(
    prediction, records, expected
):
    scores, values = expected
    assert np.ptp(values) > 1e-3  # the rows differ
    for rows in (1, len(records)):
        some = records[:rows]
        answer = prediction.Classify(classification(some), timeout=WAIT)
        check_classes(answer.result, scores[:rows])
        assert (answer.model_spec.name, answer.model_spec.version.value) == ("cmdcm", 1)
        check_values(prediction.Regress(regression(some), timeout=WAIT).result, values[:rows])
        request = multi(some, ("regress", REGRESS_METHOD), ("classify", CLASSIFY_METHOD))
        first, second = prediction.MultiInference(request, timeout=WAIT).results
        check_values(first.regression_result, values[:rows])
        check_classes(second.classification_result, scores[:rows])
        assert second.model_spec.signature_name == "classify"


@pytest.mark.parametrize("signature", ["regress", "serving_default", "score_candidates", ""])
def test_signatures_that_do_not_classify_are_refused(prediction, records, signature):
    request = classification(records[:1], signature)
    assert failure(prediction.Classify, request).code() == INVALID


@pytest.mark.parametrize("signature", ["classify", "serving_default", "score_candidates", ""])
def test_signatures_that_are_no_regression_are_refused(prediction, records, signature):
    request = regression(records[:1], signature)
    assert failure(prediction.Regress, request).code() == INVALID


@pytest.mark.parametrize(
    ("signature", "method", "code"),
    [
        ("classify", REGRESS_METHOD, INVALID),
        ("regress", CLASSIFY_METHOD, INVALID),
        ("serving_default", CLASSIFY_METHOD, INVALID),
        ("classify", "tensorflow/serving/predict", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_tasks_of_another_method_are_refused(prediction, records, signature, method, code):
    request = multi(records[:1], (signature, method))
    assert failure(prediction.MultiInference, request).code() == code


def as_json(record: bytes) -> dict[str, list]:
    """An example as REST takes it."""
    features = tf.train.Example.FromString(record).features.feature
    made = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        if kind == "bytes_list":
            values = [{"b64": base64.b64encode(value).decode()} for value in values]
        made[name] = values
    return made


def post(server, method, signature, records) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=WAIT)
    body = {"signature_name": signature, "examples": [as_json(record) for record in records]}
    connection.request("POST", f"/v1/models/cmdcm:{method}", json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_rest_classifies_and_regresses_as_the_model_does(server, records, expected):
    scores, values = expected
    code, answer = post(server, "classify", "classify", records)
    assert code == 200
    assert [[label for label, _ in row] for row in answer["results"]] == [CLASSES] * len(records)
    got = [[score for _, score in row] for row in answer["results"]]
    np.testing.assert_allclose(got, scores, rtol=0, atol=1e-5)
    code, answer = post(server, "regress", "regress", records)
    assert code == 200
    np.testing.assert_allclose(answer["results"], values, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "signature"),
    [("classify", "regress"), ("regress", "classify"), ("regress", "serving_default")],
)
def test_rest_refuses_a_signature_of_another_method(server, records, method, signature):
    code, answer = post(server, method, signature, records[:1])
    assert code == 400
    assert answer["error"]
