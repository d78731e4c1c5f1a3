"""JSON <-> arrays of TensorFlow Serving's REST API, in its row and its column format.

Row:    {"signature_name": "...", "instances": [{"a": 1, "b": [2]}, ...]} -> {"predictions": [...]}
Column: {"signature_name": "...", "inputs": {"a": [1, ...], "b": [[2], ...]}} -> {"outputs": {...}}

Where a signature has one input (output), its value may stand without its name. Bytes travel as
{"b64": "..."}; outputs whose name ends in `_bytes` are written so. The rules are those of
`json_tensor.cc`, stricter in one: a column that the signature does not have is an error.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from cmdcm.serving.status import invalid_argument

_BYTES_SUFFIX = "_bytes"
_MAX_RANK = 32


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a request's body into its top-level object.

    Raises:
        StatusError: INVALID_ARGUMENT, it is not a JSON object, or `signature_name` not a string.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise invalid_argument("JSON Value: Is not object")
    if not isinstance(request.get("signature_name", ""), str):
        raise invalid_argument("'signature_name' key must be a string value.")
    return request


def parse_request(body: bytes) -> dict[str, Any]:
    """Parses the body of a predict request into its top-level object.

    Raises:
        StatusError: INVALID_ARGUMENT, it is not a JSON object with one of `instances` and `inputs`.
    """
    request = parse_object(body)
    if ("instances" in request) == ("inputs" in request):
        raise invalid_argument("expecting exactly one of 'inputs' and 'instances' keys")
    return request


def read_inputs(
    request: Mapping[str, Any], signature: meta_graph_pb2.SignatureDef
) -> dict[str, np.ndarray]:
    """Returns the inputs of a parsed request as arrays of the signature's types.

    Raises:
        StatusError: INVALID_ARGUMENT, names the input and what is wrong with it.
    """
    columns = (
        _columns_of_rows(request["instances"], signature)
        if "instances" in request
        else _columns(request["inputs"], signature)
    )
    return {
        name: _array(name, column, signature.inputs[name].dtype) for name, column in columns.items()
    }


def write_outputs(
    request: Mapping[str, Any],
    outputs: Mapping[str, np.ndarray],
    signature: meta_graph_pb2.SignatureDef,
) -> dict[str, Any]:
    """Returns the answer's object, in the format of the request.

    Raises:
        StatusError: INVALID_ARGUMENT, outputs without a common number of rows in the row format.
    """
    single = len(signature.outputs) == 1
    if "inputs" in request:
        columns = {name: _json(name, outputs[name]) for name in sorted(outputs)}
        return {"outputs": next(iter(columns.values())) if single else columns}
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information")
    sizes = {name: len(array) for name, array in sorted(outputs.items())}
    if len(set(sizes.values())) > 1:
        raise invalid_argument(f"outputs have inconsistent batch sizes {sizes}; use 'inputs'")
    lists = {name: _json(name, array) for name, array in sorted(outputs.items())}
    if single:
        return {"predictions": next(iter(lists.values()))}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return {"predictions": rows}


def _columns(value: Any, signature: meta_graph_pb2.SignatureDef) -> dict[str, Any]:
    if isinstance(value, dict) and not is_b64(value):
        _check_names(value, signature, "'inputs' object")
        return value
    return {_only_input(signature, "inputs is a plain value/list"): value}


def _columns_of_rows(rows: Any, signature: meta_graph_pb2.SignatureDef) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise invalid_argument("expecting 'instances' to be a list with at least one element")
    named = [isinstance(row, dict) and not is_b64(row) for row in rows]
    if not any(named):
        return {_only_input(signature, "instances is a plain list"): rows}
    if not all(named):
        raise invalid_argument(f"expecting object at item {named.index(False)} of 'instances'")
    for number, row in enumerate(rows):
        _check_names(row, signature, f"element {number} of 'instances'")
        if row.keys() != rows[0].keys():
            raise invalid_argument(f"element {number} of 'instances' has other keys than the first")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _check_names(
    values: Mapping[str, Any], signature: meta_graph_pb2.SignatureDef, where: str
) -> None:
    extra = sorted(set(values) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(values) - set(signature.defaults))
    if extra or missing:
        raise invalid_argument(
            f"{where}: keys must be equal to: {','.join(sorted(signature.inputs))}. "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )


def _only_input(signature: meta_graph_pb2.SignatureDef, what: str) -> str:
    if len(signature.inputs) != 1:
        raise invalid_argument(
            f"{what}, but expecting an object, as the signature has the inputs "
            f"{','.join(sorted(signature.inputs))}"
        )
    return str(next(iter(signature.inputs)))


def is_b64(value: Any) -> bool:
    """Returns whether a JSON value is bytes: `{"b64": "..."}`."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def decode_b64(value: Mapping[str, str]) -> bytes:
    """Returns the bytes of `{"b64": "..."}`.

    Raises:
        ValueError: It is not base64.

    Example:
        >>> decode_b64({"b64": "YWI="})
        b'ab'
    """
    return base64.b64decode(value["b64"], validate=True)


def _array(name: str, value: Any, data_type: int) -> np.ndarray:
    """Returns nested lists as an array; the shape is that of the first elements."""
    dtype = np.dtype(tf.as_dtype(data_type).as_numpy_dtype)
    shape = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    leaves: list[Any] = []
    try:
        if len(shape) > _MAX_RANK:
            raise ValueError(f"lists are nested {len(shape)} deep; at most {_MAX_RANK} are allowed")
        _flatten(value, shape, 0, leaves)
        flat = np.empty(len(leaves), dtype=dtype)
        flat[:] = [_leaf(leaf, dtype) for leaf in leaves]
        return flat.reshape(shape)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise invalid_argument(f"input {name!r}: {error}") from error


def _flatten(value: Any, shape: list[int], level: int, leaves: list[Any]) -> None:
    if isinstance(value, list) != (level < len(shape)):
        kind = "list" if isinstance(value, list) else "value"
        raise ValueError(f"{kind} found at level {level} of a tensor of rank {len(shape)}")
    if not isinstance(value, list):
        leaves.append(value)
        return
    if len(value) != shape[level]:
        raise ValueError(f"list of size {len(value)} at level {level}, expected {shape[level]}")
    for element in value:
        _flatten(element, shape, level + 1, leaves)


def _leaf(value: Any, dtype: np.dtype) -> Any:
    if dtype.kind == "O":
        if isinstance(value, str):
            return value.encode("utf-8")
        if is_b64(value):
            return decode_b64(value)
    elif dtype.kind == "b":
        if isinstance(value, bool):
            return value
    elif isinstance(value, int) and not isinstance(value, bool):
        if dtype.kind not in "iu" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            return value
    elif isinstance(value, float) and dtype.kind not in "iu":
        return value
    expected = "string" if dtype.kind == "O" else dtype.name
    raise ValueError(f"JSON Value: {json.dumps(value)[:100]} is not of expected type: {expected}")


def _json(name: str, array: np.ndarray) -> Any:
    """Returns an array as nested lists; floats with the digits of their own precision."""
    if array.dtype.kind == "O":
        as_bytes = name.endswith(_BYTES_SUFFIX)
        flat = [_text(value, as_bytes) for value in array.ravel().tolist()]
        holder = np.empty(len(flat), dtype=np.object_)
        holder[:] = flat
        return holder.reshape(array.shape).tolist()
    if array.dtype in (np.float32, np.float16):
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def _text(value: bytes, as_bytes: bool) -> str | dict[str, str]:
    if not as_bytes:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass  # only the other form can carry it
    return {"b64": base64.b64encode(value).decode("ascii")}
