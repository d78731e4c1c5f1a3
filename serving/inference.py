"""The inference calls on one loaded version: Predict, Classify, Regress and MultiInference.

Checks, messages and codes follow TensorFlow Serving's `predict_util.cc`, `classifier.cc`,
`regressor.cc` and `multi_inference.cc`.
"""

from collections.abc import Callable, Collection

import grpc
import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from cmdcm.serving.example_signatures import (
    check_classifier,
    check_regressor,
    run_classifier,
    run_regressor,
)
from cmdcm.serving.servable import DEFAULT_SIGNATURE, Servable
from cmdcm.serving.status import StatusError, invalid_argument
from cmdcm.serving.tensors import byte_strings, fill_proto, from_protos

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, max_bytes: int
) -> predict_pb2.PredictResponse:
    """Answers Predict; the answer echoes the resolved name, version and signature.

    Args:
        servable: The version that answers.
        request: Inputs, signature and output filter; its model and version are not looked at.
        max_bytes: The most memory that the inputs may take.

    Raises:
        StatusError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for inputs or
            outputs that do not fit it, else the code of the TensorFlow error.
    """
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    servable.signature(signature_name)  # before the inputs are unpacked
    try:
        inputs = from_protos(request.inputs, max_bytes)
    except ValueError as error:
        raise invalid_argument(str(error)) from error
    outputs = servable.predict(signature_name, inputs, request.output_filter)
    response = predict_pb2.PredictResponse(model_spec=_model_spec(servable, signature_name))
    for name, array in outputs.items():
        fill_proto(response.outputs[name], array, typed=True)
    return response


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest, max_bytes: int
) -> classification_pb2.ClassificationResponse:
    """Answers Classify: for each example its classes, in the order of the model's output.

    Args:
        servable: The version that answers.
        request: The examples and the signature.
        max_bytes: The most memory that the serialized examples may take.

    Raises:
        StatusError: INVALID_ARGUMENT for a signature that is unknown or does not classify, no
            examples, or outputs of a wrong shape or type; else the code of the TensorFlow error.
    """
    signature_name, examples = _asked(servable, request, check_classifier, max_bytes)
    return classification_pb2.ClassificationResponse(
        result=run_classifier(servable, signature_name, examples),
        model_spec=_model_spec(servable, signature_name),
    )


def regress(
    servable: Servable, request: regression_pb2.RegressionRequest, max_bytes: int
) -> regression_pb2.RegressionResponse:
    """Answers Regress: a value for each example.

    Args:
        servable: The version that answers.
        request: The examples and the signature.
        max_bytes: The most memory that the serialized examples may take.

    Raises:
        StatusError: INVALID_ARGUMENT for a signature that is unknown or no regression, no examples,
            or an output of a wrong shape or type; else the code of the TensorFlow error.
    """
    signature_name, examples = _asked(servable, request, check_regressor, max_bytes)
    return regression_pb2.RegressionResponse(
        result=run_regressor(servable, signature_name, examples),
        model_spec=_model_spec(servable, signature_name),
    )


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, max_bytes: int
) -> inference_pb2.MultiInferenceResponse:
    """Answers MultiInference: each task's signature over the same examples, by one version.

    Args:
        servable: The version that answers.
        request: The examples, and tasks that name signature and method.
        max_bytes: The most memory that the serialized examples may take.

    Raises:
        StatusError: INVALID_ARGUMENT for tasks of several models, a repeated signature, and as in
            `classify` and `regress`; UNIMPLEMENTED for another method.
    """
    signature_names = _check_tasks(servable, request.tasks)
    examples = serialized_examples(request.input, max_bytes)
    response = inference_pb2.MultiInferenceResponse()
    for task, signature_name in zip(request.tasks, signature_names, strict=True):
        result = response.results.add(model_spec=_model_spec(servable, signature_name))
        if task.method_name == CLASSIFY_METHOD:
            result.classification_result.CopyFrom(
                run_classifier(servable, signature_name, examples)
            )
        else:
            result.regression_result.CopyFrom(run_regressor(servable, signature_name, examples))
    return response


def serialized_examples(request: input_pb2.Input, max_bytes: int) -> np.ndarray:
    """Returns the examples of a request as serialized protos, [N] objects.

    The shared context, if any, is put before each example: bytes of protos that follow one another
    are merged by whoever parses them, and the example's own features win.

    Raises:
        StatusError: INVALID_ARGUMENT, there are none or they take more than `max_bytes`.
    """
    kind = request.WhichOneof("kind")
    if kind == "example_list_with_context":
        context = request.example_list_with_context.context.SerializeToString()
        examples = request.example_list_with_context.examples
    else:
        context, examples = b"", request.example_list.examples
    if not examples:
        raise invalid_argument("Input is empty.")
    if len(context) * len(examples) + request.ByteSize() > max_bytes:
        raise invalid_argument(
            f"{len(examples)} examples with a context of {len(context)} bytes each exceed the "
            f"limit of {max_bytes} bytes"
        )
    return byte_strings([context + example.SerializeToString() for example in examples])


def _asked(
    servable: Servable,
    request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest,
    check: Callable[[meta_graph_pb2.SignatureDef], None],
    max_bytes: int,
) -> tuple[str, np.ndarray]:
    """Returns the checked signature of a request by name, and its serialized examples."""
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    check(_find(servable, signature_name, "No signature was found with the name"))
    return signature_name, serialized_examples(request.input, max_bytes)


def _model_spec(servable: Servable, signature_name: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _find(servable: Servable, name: str, message: str) -> meta_graph_pb2.SignatureDef:
    found = servable.signatures.get(name)
    if found is None:
        raise invalid_argument(f"{message}: {name}")
    return found


def _check_tasks(servable: Servable, tasks: Collection[inference_pb2.InferenceTask]) -> list[str]:
    """Returns the name of each task's signature."""
    checked: list[str] = []
    if len({task.model_spec.name for task in tasks}) > 1:
        raise invalid_argument(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    for task in tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in checked:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signature = _find(servable, name, "Requested signature not found in model graph")
        if task.method_name == CLASSIFY_METHOD:
            check_classifier(signature)
        elif task.method_name == REGRESS_METHOD:
            check_regressor(signature)
        else:
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name}",
            )
        checked.append(name)
    return checked
