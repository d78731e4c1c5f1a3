"""Requests that no client means to send, for a server of the models `tiny` and `examples`.

The request of a number depends on the seed and the number alone. Most are valid ones that were
damaged, because those reach furthest into the server.
"""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from cmdcm.tests.serving.models import candidate_arrays, user_arrays
from cmdcm.tests.serving.stubs import (
    candidates_request,
    metadata_request,
    predict_request,
    status_request,
)

PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"
RELOAD = MODEL + "HandleReloadConfigRequest"

_SIZES = (-1, -(2**63), 0, 1, 2, 3, 5, 1 << 20, 1 << 31, 1 << 40, 2**63 - 1)
_NAMES = (
    "tiny",
    "examples",
    "tin",
    "",
    "x" * 3000,
    "../tiny",
    "tiny:predict",
    "\0",
    "名",
    "%2e%2e",
)
_SIGNATURES = ("", "serving_default", "score_candidates", "classify", "regress", "uneven", "no")


@dataclass(frozen=True)
class GrpcRequest:
    """A unary call of arbitrary bytes."""

    method: str
    content: bytes


@dataclass(frozen=True)
class RestRequest:
    """Bytes for a connection of its own.

    Attributes:
        content: The bytes.
        whole: Whether they are a whole request; else the server may wait for more.
    """

    content: bytes
    whole: bool


Request = GrpcRequest | RestRequest


def model_config(base: Path) -> model_management_pb2.ReloadConfigRequest:
    """Returns the reload request that has the server serve what it is to serve."""
    request = model_management_pb2.ReloadConfigRequest()
    for name in ("tiny", "examples"):
        entry = request.config.model_config_list.config.add(name=name)
        entry.base_path = str(base / name)
        entry.model_platform = "tensorflow"
    return request


class HostileRequests:
    """Makes the requests.

    Args:
        base: Folder of the models `tiny` and `examples`.
        seed: Seed of all requests.
    """

    def __init__(self, base: Path, seed: int):
        self._seed = seed
        self._config = model_config(base)
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.append(1.5)
        example.features.feature["odd"].int64_list.value.append(3)
        self._example = example.SerializeToString()
        self._valid = self._valid_requests()
        kinds: dict[Callable[[random.Random], Request], int] = {
            self._damaged: 30,
            self._garbage: 5,
            self._tensor: 20,
            self._examples: 20,
            self._reload: 3,
            self._rest_body: 14,
            self._rest_head: 8,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def make(self, number: int) -> Request:
        """Returns the request of a number."""
        draw = random.Random(f"{self._seed}:{number}")
        return draw.choices(self._kinds, self._weights)[0](draw)

    def _valid_requests(self) -> list[GrpcRequest]:
        classify = classification_pb2.ClassificationRequest()
        classify.model_spec.name, classify.model_spec.signature_name = "examples", "classify"
        classify.input.example_list.examples.add().ParseFromString(self._example)
        regress = regression_pb2.RegressionRequest()
        regress.model_spec.name, regress.model_spec.signature_name = "examples", "regress"
        shared = regress.input.example_list_with_context
        shared.examples.add().ParseFromString(self._example)
        shared.context.ParseFromString(self._example)
        multi = inference_pb2.MultiInferenceRequest(input=classify.input)
        for name in ("classify", "regress"):
            task = multi.tasks.add(method_name=f"tensorflow/serving/{name}")
            task.model_spec.name, task.model_spec.signature_name = "examples", name
        serialized = predict_request({"examples": [b"", b""]})
        requests = {
            PREDICTION + "Predict": [candidates_request(), serialized],
            PREDICTION + "Classify": [classify],
            PREDICTION + "Regress": [regress],
            PREDICTION + "MultiInference": [multi],
            PREDICTION + "GetModelMetadata": [metadata_request("tiny", "signature_def")],
            MODEL + "GetModelStatus": [status_request("tiny", version=2)],
        }
        return [
            GrpcRequest(method, request.SerializeToString(deterministic=True))
            for method, made in requests.items()
            for request in made
        ]

    def _damaged(self, draw: random.Random) -> GrpcRequest:
        valid = draw.choice(self._valid)
        return GrpcRequest(valid.method, damage(valid.content, draw))

    def _garbage(self, draw: random.Random) -> GrpcRequest:
        """Any bytes to any method, some of which are not there."""
        methods = [valid.method for valid in self._valid]
        methods += [PREDICTION + "Guess", MODEL, "/", "/grpc.health.v1.Health/Check"]
        return GrpcRequest(draw.choice(methods), draw.randbytes(draw.choice((0, 1, 7, 60, 5000))))

    def _tensor(self, draw: random.Random) -> GrpcRequest:
        """A tensor of any type, shape and content, in the place of a valid one."""
        request = candidates_request()
        name = draw.choice([*sorted(request.inputs), "other"])
        tensor = request.inputs[name]
        if draw.random() < 0.5:
            tensor.Clear()
        tensor.dtype = draw.choice((*range(31), 101, 107, 120, 999, 2**31 - 1))
        if draw.random() < 0.7:
            tensor.ClearField("tensor_shape")
            for _ in range(draw.choice((0, 1, 1, 2, 2, 3, 300))):
                tensor.tensor_shape.dim.add().size = draw.choice(_SIZES)
        tensor.tensor_shape.unknown_rank = draw.random() < 0.05
        tensor.version_number = draw.choice((0, 0, 0, 1, -1))
        values = draw.choice((0, 1, 3, 1000))
        match draw.randrange(6):
            case 0:
                tensor.tensor_content = draw.randbytes(values * draw.choice((1, 4, 8)))
            case 1:
                tensor.string_val.extend(draw.randbytes(9) for _ in range(values))
            case 2:
                tensor.int64_val.extend(draw.choice(_SIZES) for _ in range(values))
            case 3:
                tensor.float_val.extend(
                    draw.choice((float("nan"), float("inf"), -1e38, 0.0)) for _ in range(values)
                )
            case 4:
                tensor.half_val.extend(draw.randrange(2**31) for _ in range(values))
            case 5:
                tensor.variant_val.add(type_name="x" * values, metadata=draw.randbytes(9))
        request.model_spec.signature_name = draw.choice((*["score_candidates"] * 5, *_SIGNATURES))
        request.output_filter.extend(draw.choices(("p_cart", "p_x", ""), k=draw.choice((0, 0, 2))))
        if draw.random() < 0.1:
            request.model_spec.version.value = draw.choice(_SIZES)
        if draw.random() < 0.1:
            request.model_spec.version_label = draw.choice(_NAMES)
        return GrpcRequest(PREDICTION + "Predict", request.SerializeToString())

    def _examples(self, draw: random.Random) -> GrpcRequest:
        """Malformed tf.train.Examples, as bytes in a tensor or as protos."""
        made = [damage(self._example, draw) for _ in range(draw.choice((1, 1, 2, 20)))]
        if draw.random() < 0.5:
            request = predict_request({"examples": made}, draw.choice(("tiny", "tiny", *_NAMES)))
            if draw.random() < 0.4:
                request = predict_request(
                    {"inputs": made}, "examples", draw.choice(_SIGNATURES[3:])
                )
            return GrpcRequest(PREDICTION + "Predict", request.SerializeToString())
        is_classify = draw.random() < 0.5
        asked = (
            classification_pb2.ClassificationRequest()
            if is_classify
            else regression_pb2.RegressionRequest()
        )
        asked.model_spec.name = "examples"
        asked.model_spec.signature_name = draw.choice(_SIGNATURES)
        field = draw.choice((asked.input.example_list, asked.input.example_list_with_context))
        for _ in range(draw.choice((0, 1, 5))):
            feature = field.examples.add().features.feature[draw.choice(("x", "odd", ""))]
            kind = draw.choice(("float_list", "int64_list", "bytes_list"))
            value = {"float_list": 1e39, "int64_list": -1, "bytes_list": b"\xff"}[kind]
            getattr(feature, kind).value.extend([value] * draw.choice((0, 1, 1, 50)))
        method = "Classify" if is_classify else "Regress"
        return GrpcRequest(PREDICTION + method, asked.SerializeToString())

    def _reload(self, draw: random.Random) -> GrpcRequest:
        """Model configs, most of which cannot be."""
        request = model_management_pb2.ReloadConfigRequest()
        request.CopyFrom(self._config)
        if draw.random() < 0.3:
            return GrpcRequest(RELOAD, damage(request.SerializeToString(), draw))
        listed = request.config.model_config_list
        entry = draw.choice((listed.config[0], listed.config.add()))
        paths = ("", ".", "/", "/gone", "/proc/self/fd", "s3://x/y", "\0", "/x" * 3000)
        match draw.randrange(6):
            case 0:
                entry.name, entry.base_path = draw.choice(_NAMES), draw.choice(paths)
            case 1:
                entry.base_path = draw.choice(paths)
            case 2:
                versions = [draw.choice(_SIZES) for _ in range(draw.choice((0, 1, 9)))]
                entry.model_version_policy.specific.versions.extend(versions)
            case 3:
                size = draw.choice((0, 1, 2**32 - 1))
                entry.model_version_policy.latest.num_versions = size
            case 4:
                entry.version_labels[draw.choice(_NAMES)] = draw.choice(_SIZES)
            case 5:
                entry.model_platform = draw.choice(("", "x", "tensorflow"))
        if draw.random() < 0.1:
            request.config.ClearField("config")
            request.config.custom_model_config.type_url = "x"
        return GrpcRequest(RELOAD, request.SerializeToString())

    def _rest_body(self, draw: random.Random) -> RestRequest:
        """A body that is no request, or nearly one, to a route that is there."""
        inputs = {**user_arrays(), **candidate_arrays(2)}
        columns = {name: _jsonable(array) for name, array in inputs.items()}
        body: object = {"signature_name": "score_candidates", "inputs": columns}
        match draw.randrange(5):
            case 0:
                columns[draw.choice([*sorted(columns), "other"])] = _json_value(draw, 4)
            case 1:
                body = {"instances": _json_value(draw, 4)}
            case 2:
                body = {"examples": [_json_value(draw, 3)], "context": {"x": 1.0}}
            case 3:
                body = _json_value(draw, 5)
        content = json.dumps(body).encode()
        if draw.random() < 0.4:
            content = damage(content, draw)
        model, method = draw.choice((("tiny", "predict"), ("examples", "classify")))
        headers = b""
        if draw.random() < 0.15:
            packed = gzip.compress(content, mtime=0)
            content = damage(packed, draw) if draw.random() < 0.7 else packed
            headers = b"Content-Encoding: gzip\r\n"
        head = f"POST /v1/models/{model}:{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        length = f"Content-Length: {len(content)}\r\n".encode()
        return RestRequest(head.encode() + headers + length + b"\r\n" + content, whole=True)

    def _rest_head(self, draw: random.Random) -> RestRequest:
        """A wild path or wild headers, or HTTP that is damaged."""
        method = draw.choice(("GET", "POST", "PUT", "OPTIONS", "CONNECT", "x" * 300, "\0"))
        name, suffix = draw.choice(_NAMES), draw.choice(("", "/metadata", ":predict", "/versions/"))
        path = draw.choice(
            (f"/v1/models/{name}{suffix}", "/", "*", "http://x/v1", "/" + "a" * 9000)
        )
        headers = draw.choices(
            (
                "Content-Length: -1",
                "Content-Length: 99999999999999999999999",
                "Content-Length: 7",
                "Content-Length: ٣",
                "Transfer-Encoding: chunked",
                "Transfer-Encoding: gzip, chunked",
                "Content-Encoding: br",
                "Accept-Encoding: gzip;q=x",
                "Expect: 100-continue",
                "Upgrade: websocket",
                "X: " + "y" * draw.choice((1, 9000, 70_000)),
                "no colon",
            ),
            k=draw.choice((0, 1, 2, 3)),
        )
        lines = [f"{method} {path} HTTP/{draw.choice(('1.1', '1.0', '2.0', '9'))}", "Host: x"]
        text = "\r\n".join([*lines, *headers, "Connection: close", "", ""])
        tail = draw.choice((b"", b"{}", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"))
        content = text.encode() + tail
        if draw.random() < 0.3:
            content = damage(content, draw)
        return RestRequest(content, whole=False)


def damage(content: bytes, draw: random.Random) -> bytes:
    """Returns bytes that were cut, flipped, repeated or replaced somewhere."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(damaged) + 1)
        match draw.randrange(7):
            case 0:
                del damaged[at:]
            case 1 | 2 if damaged:
                damaged[at % len(damaged)] ^= 1 << draw.randrange(8)
            case 3:
                damaged[at:at] = draw.randbytes(draw.choice((1, 3, 30)))
            case 4:
                damaged[at:at] = damaged[at : at + draw.choice((1, 8, 200))]
            case 5:
                damaged[at : at + draw.choice((1, 4))] = b"\xff\xfe"  # no utf-8
            case 6:
                damaged[at : at + 1] = b"\xff" * 9 + b"\x01"  # the largest varint
    return bytes(damaged)


def _jsonable(array: np.ndarray) -> object:
    return [v.decode() for v in array] if array.dtype.kind == "O" else array.tolist()


def _json_value(draw: random.Random, depth: int) -> object:
    leaves = (None, True, 0, -1, 2**70, 1e308, float("nan"), "", "\ud800", {"b64": "!"}, "é" * 300)
    match draw.randrange(5 if depth else 1):
        case 0 | 1:
            return draw.choice(leaves)
        case 2:
            return [_json_value(draw, depth - 1) for _ in range(draw.choice((0, 1, 3)))]
        case 3:
            keys = draw.choices(("examples", "x", "b64", "price", ""), k=2)
            return {key: _json_value(draw, depth - 1) for key in keys}
        case _:
            nested: object = 1.5
            for _ in range(draw.choice((2, 40, 900))):
                nested = [nested]
            return nested
