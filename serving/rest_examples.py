"""JSON of the REST API's classify and regress: examples in, classes or values out.

{"signature_name": "...", "context": {...}, "examples": [{"age": 46.0, "words": ["a"]}, ...]}
    -> {"results": [[["label", 0.4], ...], ...]} or {"results": [0.4, ...]}

A feature is a value or a list of them: numbers with a point are floats, others int64, strings and
{"b64": "..."} bytes. The rules are those of `json_tensor.cc`.
"""

import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from cmdcm.serving.rest_json import decode_b64, is_b64, parse_object
from cmdcm.serving.status import invalid_argument

_INT64 = range(-(2**63), 2**63)


def read_examples(body: bytes, examples: input_pb2.Input) -> str:
    """Fills `examples` with those of a request's body.

    Returns:
        Name of the signature; empty for the default one.

    Raises:
        StatusError: INVALID_ARGUMENT, names the example or feature and what is wrong with it.
    """
    request = parse_object(body)
    listed = request.get("examples")
    if not isinstance(listed, list) or not listed:
        raise invalid_argument("expecting 'examples' to be a list with at least one element")
    target = examples.example_list.examples
    if "context" in request:
        _read_example(request["context"], examples.example_list_with_context.context, "context")
        target = examples.example_list_with_context.examples
    for number, example in enumerate(listed):
        _read_example(example, target.add(), f"element {number} of 'examples'")
    return str(request.get("signature_name", ""))


def write_classifications(result: classification_pb2.ClassificationResult) -> dict[str, Any]:
    """Returns the answer's object: for each example its (label, score) pairs."""
    return {
        "results": [
            [[entry.label, _decimal(entry.score)] for entry in classified.classes]
            for classified in result.classifications
        ]
    }


def write_regressions(result: regression_pb2.RegressionResult) -> dict[str, Any]:
    """Returns the answer's object: for each example its value."""
    return {"results": [_decimal(entry.value) for entry in result.regressions]}


def _read_example(value: Any, example: example_pb2.Example, where: str) -> None:
    if not isinstance(value, Mapping):
        raise invalid_argument(f"{where}: Example must be JSON object")
    for name, content in value.items():
        feature = example.features.feature[name]
        feature.SetInParent()
        for element in content if isinstance(content, list) else [content]:
            try:
                _add(element, feature)
            except (ValueError, binascii.Error) as error:
                raise invalid_argument(f"{where}: Feature: {name}: {error}") from error


def _add(value: Any, feature: feature_pb2.Feature) -> None:
    if isinstance(value, str) or is_b64(value):
        kind = "bytes_list"
        value = value.encode() if isinstance(value, str) else decode_b64(value)
    elif isinstance(value, int):  # booleans are 0 and 1
        kind = "int64_list"
        if value not in _INT64:
            raise ValueError(f"{value} is not an int64")
        value = int(value)
    elif isinstance(value, float):
        kind = "float_list"
    else:
        raise ValueError(f"has element with unexpected JSON type: {type(value).__name__}")
    set_before = feature.WhichOneof("kind")
    if set_before not in (None, kind):
        raise ValueError(f"Unexpected element type, expecting type: {set_before[: -len('_list')]}")
    getattr(feature, kind).value.append(value)


def _decimal(value: float) -> float:
    """Returns a float32 with its own digits: 0.2, not 0.20000000298."""
    return float(str(np.float32(value)))
