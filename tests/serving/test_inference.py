"""Classify, Regress and MultiInference: what they answer, and which requests they refuse."""

import grpc
import hypothesis.strategies as st
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

from cmdcm.serving.handlers import Handlers
from cmdcm.serving.inference import CLASSIFY_METHOD, REGRESS_METHOD, serialized_examples
from cmdcm.serving.model_config import single_model_config
from cmdcm.serving.models import Models
from cmdcm.serving.status import StatusError

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def handlers(exports):
    models = Models(poll_seconds=0)
    models.reload(single_model_config("examples", exports / "examples"))
    yield Handlers(models, max_bytes=1 << 20)
    models.stop()


def fill(list_proto, values) -> None:
    for value in values:
        list_proto.examples.add().features.feature["x"].float_list.value.append(value)


def classification(signature="", values=(1.5, 2.0)) -> classification_pb2.ClassificationRequest:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = signature
    fill(request.input.example_list, values)
    return request


def regression(signature="regress", values=(1.5, 2.0)) -> regression_pb2.RegressionRequest:
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = signature
    fill(request.input.example_list, values)
    return request


def multi(*tasks, values=(1.5, 2.0)) -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "examples"
        task.model_spec.signature_name = signature
    fill(request.input.example_list, values)
    return request


def classes(result) -> list[list[tuple[str, float]]]:
    return [[(c.label, c.score) for c in row.classes] for row in result.classifications]


def values(result) -> list[float]:
    return [row.value for row in result.regressions]


def refused(call, request) -> StatusError:
    with pytest.raises(StatusError) as caught:
        call(request)
    return caught.value


def test_classes_and_scores_of_each_example(handlers):
    answer = handlers.classify(classification("classify"))
    assert classes(answer.result) == [[("a", 1.5), ("b", 15.0)], [("a", 2.0), ("b", 20.0)]]
    assert answer.model_spec.name == "examples"
    assert answer.model_spec.version.value == 1
    assert answer.model_spec.signature_name == "classify"


def test_scores_without_classes_by_the_default_signature(handlers):
    answer = handlers.classify(classification())
    assert classes(answer.result) == [[("", 1.5), ("", 15.0)], [("", 2.0), ("", 20.0)]]
    assert answer.model_spec.signature_name == "serving_default"


def test_classes_without_scores_and_a_label_that_is_no_text(handlers):
    answer = handlers.classify(classification("labels_only", [1.0]))
    assert classes(answer.result) == [[("a", 0.0), ("b", 0.0), ("\\xff", 0.0)]]


@pytest.mark.parametrize("signature", ["regress", "regress_column"])
def test_a_value_of_each_example(handlers, signature):
    answer = handlers.regress(regression(signature))
    assert values(answer.result) == [4.0, 5.0]
    assert answer.model_spec.version.value == 1
    assert answer.model_spec.signature_name == signature


def test_several_signatures_over_the_same_examples(handlers):
    request = multi(
        ("regress", REGRESS_METHOD), ("", CLASSIFY_METHOD), ("regress_column", REGRESS_METHOD)
    )
    results = handlers.multi_inference(request).results
    assert [result.WhichOneof("result") for result in results] == [
        "regression_result",
        "classification_result",
        "regression_result",
    ]
    assert values(results[0].regression_result) == [4.0, 5.0]
    assert classes(results[1].classification_result)[1] == [("", 2.0), ("", 20.0)]
    assert values(results[2].regression_result) == [4.0, 5.0]
    assert [r.model_spec.signature_name for r in results] == [
        "regress",
        "serving_default",
        "regress_column",
    ]
    assert {r.model_spec.version.value for r in results} == {1}


def test_a_context_is_shared_and_an_example_wins(handlers):
    request = regression(values=[])
    request.input.Clear()
    shared = request.input.example_list_with_context
    shared.context.features.feature["x"].float_list.value.append(10.0)
    shared.examples.add()
    fill(shared, [2.0])
    assert values(handlers.regress(request).result) == [21.0, 5.0]


def test_serialized_examples_are_the_merged_protos():
    request = input_pb2.Input()
    shared = request.example_list_with_context
    shared.context.features.feature["user"].int64_list.value.append(7)
    fill(shared, [1.0, 2.0])
    got = [tf.train.Example.FromString(each) for each in serialized_examples(request, 1 << 20)]
    assert [e.features.feature["user"].int64_list.value[0] for e in got] == [7, 7]
    assert [e.features.feature["x"].float_list.value[0] for e in got] == [1.0, 2.0]


def test_no_name_no_model_no_version(handlers):
    for call, request in [
        (handlers.classify, classification_pb2.ClassificationRequest()),
        (handlers.regress, regression_pb2.RegressionRequest()),
        (handlers.multi_inference, inference_pb2.MultiInferenceRequest()),
    ]:
        error = refused(call, request)
        assert (error.code, str(error)) == (Code.INVALID_ARGUMENT, "Missing ModelSpec")
    request = classification()
    request.model_spec.version.value = 9
    assert refused(handlers.classify, request).code == Code.NOT_FOUND
    request.model_spec.version_label = "stable"
    assert refused(handlers.classify, request).code == Code.INVALID_ARGUMENT
    request.model_spec.name = "other"
    assert refused(handlers.classify, request).code == Code.NOT_FOUND


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("nothing", "No signature was found with the name: nothing"),
        ("two_inputs", "Expected one input Tensor."),
        ("three", "Expected one or two output Tensors, found 3"),
        ("other_input", "No classification inputs found in SignatureDef"),
        ("other_outputs", 'at least one of "classes" or "scores"'),
        ("regress", 'at least one of "classes" or "scores"'),
        ("flat", r"Expected Tensor shape: \[batch_size num_classes\] but got \[2\]"),
        ("double", "Expected scores Tensor of DT_FLOAT. Got: float64"),
        ("number_classes", "Expected classes Tensor of DT_STRING. Got: float32"),
        ("short", "Expected scores output batch size of 2. Got: 1"),
        ("uneven", r"class and score should match in dim_size\(1\). Got 3 vs. 2"),
    ],
)
def test_signatures_that_do_not_classify(handlers, signature, message):
    with pytest.raises(StatusError, match=message) as caught:
        handlers.classify(classification(signature))
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("nothing", "No signature was found with the name: nothing"),
        ("two_inputs", "Expected one input Tensor."),
        ("classify", "Expected one output Tensor."),
        ("other_input", "No regression inputs found in SignatureDef"),
        ("serving_default", "No regression outputs found in SignatureDef"),
        ("wide_values", r"either \[batch_size\] or \[batch_size, 1\] but got \[2, 2\]"),
        ("short_values", "did not match output batch size: 2 vs. 1"),
        ("double_values", "Expected output Tensor of DT_FLOAT. Got: float64"),
    ],
)
def test_signatures_that_are_no_regression(handlers, signature, message):
    with pytest.raises(StatusError, match=message) as caught:
        handlers.regress(regression(signature))
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("tasks", "code", "message"),
    [
        (
            [("regress", REGRESS_METHOD), ("regress", REGRESS_METHOD)],
            Code.INVALID_ARGUMENT,
            "Duplicate evaluation of signature: regress",
        ),
        (
            [("nothing", REGRESS_METHOD)],
            Code.INVALID_ARGUMENT,
            "Requested signature not found in model graph: nothing",
        ),
        ([("classify", REGRESS_METHOD)], Code.INVALID_ARGUMENT, "Expected one output Tensor."),
        ([("regress", CLASSIFY_METHOD)], Code.INVALID_ARGUMENT, "at least one of"),
        (
            [("regress", "tensorflow/serving/predict")],
            Code.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        ([("regress", REGRESS_METHOD), ("regress", "")], Code.INVALID_ARGUMENT, "Duplicate"),
    ],
)
def test_tasks_that_cannot_be(handlers, tasks, code, message):
    error = refused(handlers.multi_inference, multi(*tasks))
    assert error.code == code
    assert message in str(error)


def test_tasks_of_several_models(handlers):
    request = multi(("regress", REGRESS_METHOD), ("classify", CLASSIFY_METHOD))
    request.tasks[1].model_spec.name = "other"
    error = refused(handlers.multi_inference, request)
    assert error.code == Code.INVALID_ARGUMENT
    assert "must access the same model name" in str(error)


def test_no_examples(handlers):
    without = classification(values=[])
    empty_list = classification(values=[])
    empty_list.input.example_list.SetInParent()
    only_context = classification(values=[])
    only_context.input.example_list_with_context.context.SetInParent()
    for request in (without, empty_list, only_context):
        error = refused(handlers.classify, request)
        assert (error.code, str(error)) == (Code.INVALID_ARGUMENT, "Input is empty.")
    assert "Input is empty." in str(refused(handlers.regress, regression(values=[])))
    tasks = multi(("regress", REGRESS_METHOD), values=[])
    assert "Input is empty." in str(refused(handlers.multi_inference, tasks))


def test_an_example_that_the_model_cannot_read(handlers):
    request = regression()
    request.input.example_list.examples[0].features.feature["x"].int64_list.value.append(1)
    assert refused(handlers.regress, request).code == Code.INVALID_ARGUMENT


def test_a_context_that_would_fill_the_memory_is_refused(handlers):
    request = regression(values=[])
    request.input.Clear()
    shared = request.input.example_list_with_context
    shared.context.features.feature["x"].bytes_list.value.append(b"x" * 10_000)
    for _ in range(1000):
        shared.examples.add()
    error = refused(handlers.regress, request)
    assert error.code == Code.INVALID_ARGUMENT
    assert "exceed the limit of 1048576 bytes" in str(error)


CASES = {
    "classify": classification("classify"),
    "regress": regression(),
    "multi_inference": multi(("regress", REGRESS_METHOD), ("classify", CLASSIFY_METHOD)),
}


@settings(max_examples=200)
@given(
    call=st.sampled_from(sorted(CASES)),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
)
def test_requests_with_changed_bytes_are_answered(handlers, call, changes):
    content = bytearray(CASES[call].SerializeToString(deterministic=True))
    for position, byte in changes:
        content[position % len(content)] = byte
    try:
        request = type(CASES[call]).FromString(bytes(content))
    except DecodeError:
        return  # gRPC answers these
    try:
        getattr(handlers, call)(request)
    except StatusError as error:
        assert error.code in {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED}, str(error)
