"""Signatures over serialized examples: which ones classify or regress, and what they answer.

A classification has one input `inputs` and the outputs `classes` (string, [N, classes]) and
`scores` (float32, [N, classes]), or one of them. A regression has one input `inputs` and one output
`outputs` (float32, [N] or [N, 1]). The names decide, and the method name of the signature is not
looked at, as in TensorFlow Serving without `--enable_signature_method_name_check`: TensorFlow 2
writes `tensorflow/serving/predict` for every signature. Checks and messages follow its
`classifier.cc` and `regressor.cc`.
"""

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from cmdcm.serving.servable import Servable
from cmdcm.serving.status import invalid_argument

EXAMPLES = "inputs"
CLASSES, SCORES = "classes", "scores"
VALUES = "outputs"


def check_classifier(signature: meta_graph_pb2.SignatureDef) -> None:
    """Checks that a signature can answer Classify.

    Raises:
        StatusError: INVALID_ARGUMENT, its inputs or outputs are not a classification's.
    """
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if EXAMPLES not in signature.inputs:
        raise invalid_argument(
            f"No classification inputs found in SignatureDef: it has {list(signature.inputs)}, "
            f"not {EXAMPLES!r}"
        )
    if CLASSES not in signature.outputs and SCORES not in signature.outputs:
        raise invalid_argument(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". It has {sorted(signature.outputs)}'
        )


def check_regressor(signature: meta_graph_pb2.SignatureDef) -> None:
    """Checks that a signature can answer Regress.

    Raises:
        StatusError: INVALID_ARGUMENT, its inputs or outputs are not a regression's.
    """
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if EXAMPLES not in signature.inputs:
        raise invalid_argument(
            f"No regression inputs found in SignatureDef: it has {list(signature.inputs)}, "
            f"not {EXAMPLES!r}"
        )
    if VALUES not in signature.outputs:
        raise invalid_argument(
            f"No regression outputs found in SignatureDef: it has {list(signature.outputs)}, "
            f"not {VALUES!r}"
        )


def run_classifier(
    servable: Servable, signature_name: str, examples: np.ndarray
) -> classification_pb2.ClassificationResult:
    """Returns the classes of each example, in the order of the model's outputs.

    Args:
        servable: The version that answers.
        signature_name: Name of a signature that passed `check_classifier`.
        examples: Serialized examples, [N].

    Raises:
        StatusError: INVALID_ARGUMENT for outputs of a wrong shape or type, else the code of the
            TensorFlow error.
    """
    known = servable.signature(signature_name).outputs
    wanted = [name for name in (CLASSES, SCORES) if name in known]
    outputs = servable.predict(signature_name, {EXAMPLES: examples}, wanted)
    types = {CLASSES: (np.object_, "DT_STRING"), SCORES: (np.float32, "DT_FLOAT")}
    for name, array in outputs.items():
        dtype, type_name = types[name]
        if array.ndim != 2:
            raise invalid_argument(
                f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}"
            )
        if array.dtype != dtype:
            raise invalid_argument(f"Expected {name} Tensor of {type_name}. Got: {array.dtype}")
        if len(array) != len(examples):
            raise invalid_argument(
                f"Expected {name} output batch size of {len(examples)}. Got: {len(array)}"
            )
    sizes = [outputs[name].shape[1] for name in wanted]
    if len(set(sizes)) > 1:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {sizes[0]} vs. {sizes[1]}"
        )
    labels = outputs[CLASSES].tolist() if CLASSES in outputs else None
    scores = outputs[SCORES].tolist() if SCORES in outputs else None
    result = classification_pb2.ClassificationResult()
    for row in range(len(examples)):
        classifications = result.classifications.add()
        for column in range(sizes[0]):
            found = classifications.classes.add()
            if labels is not None:  # `label` is text; the model's bytes may not be
                found.label = labels[row][column].decode("utf-8", "backslashreplace")
            if scores is not None:
                found.score = scores[row][column]
    return result


def run_regressor(
    servable: Servable, signature_name: str, examples: np.ndarray
) -> regression_pb2.RegressionResult:
    """Returns the value of each example.

    Args:
        servable: The version that answers.
        signature_name: Name of a signature that passed `check_regressor`.
        examples: Serialized examples, [N].

    Raises:
        StatusError: INVALID_ARGUMENT for an output of a wrong shape or type, else the code of the
            TensorFlow error.
    """
    values = servable.predict(signature_name, {EXAMPLES: examples})[VALUES]
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{list(values.shape)}"
        )
    if len(values) != len(examples):
        raise invalid_argument(
            f"Input batch size did not match output batch size: {len(examples)} vs. {len(values)}"
        )
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT. Got: {values.dtype}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
    return result
