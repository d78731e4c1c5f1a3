"""The REST face of the embedded server: TensorFlow Serving's routes as an ASGI application.

POST /v1/models/NAME[/versions/N|/labels/L]:(predict|classify|regress)
GET  /v1/models/NAME[/versions/N|/labels/L][/metadata]
GET  /monitoring/prometheus/metrics
"""

import asyncio
import functools
import json
import re
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from cmdcm.serving.calls import Call, deadline_exceeded
from cmdcm.serving.entry import Entry
from cmdcm.serving.handlers import SIGNATURE_DEF
from cmdcm.serving.metrics import CONTENT_TYPE
from cmdcm.serving.rest_examples import read_examples, write_classifications, write_regressions
from cmdcm.serving.rest_json import parse_request, read_inputs, write_outputs
from cmdcm.serving.status import StatusError, cut, http_code, invalid_argument

BODY_SECONDS = 30.0
"""How long a request's body may take to arrive."""

_MAX_VERSION = 2**63 - 1
_MIN_GZIP_BYTES = 1024
_HELD_REQUESTS = 4  # requests of the largest size whose bodies are held at once

_MODEL = (
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
)
_POST_ROUTE = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE)
_GET_ROUTE = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)

_APIS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}


class RestApp:
    """The REST API; an ASGI application.

    Args:
        entry: Answers the calls.
        max_bytes: Largest request, before and after it is unpacked.
        timeout_seconds: Longest that a request may take once it has arrived.
        threads: Threads that run requests.
        prometheus_path: Path of the metrics page; None for none.

    Attributes:
        stopping: Set when the server stops: new requests are refused.
    """

    def __init__(
        self,
        entry: Entry,
        *,
        max_bytes: int,
        timeout_seconds: float,
        threads: int,
        prometheus_path: str | None = None,
    ):
        self.stopping = False
        self._entry = entry
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._prometheus_path = prometheus_path
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._held_bytes = 0  # of the bodies of requests under way; the event loop's alone
        self._app = GZipMiddleware(self._serve, minimum_size=_MIN_GZIP_BYTES)

    def close(self) -> None:
        """Ends the threads, without waiting for what nobody waits for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = bytearray()
        try:
            await self._read(request, body)
            response = await self._answer(request, body)
        except StatusError as error:  # the rest of the body is not read
            self._entry.metrics.refused("REST", error.code.name)
            response = _failure(error, {"Connection": "close"})
        except ClientDisconnect:
            return
        finally:
            self._held_bytes -= len(body)
        await response(scope, receive, send)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Fills `body`, within bounds of size and time."""
        if int(request.headers.get("content-length", "0")[:20]) > self._max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    self._held_bytes += len(chunk)
                    if len(body) > self._max_bytes:
                        raise self._too_large()
                    if self._held_bytes > _HELD_REQUESTS * self._max_bytes:
                        raise StatusError(
                            grpc.StatusCode.UNAVAILABLE, "too many large requests at once"
                        )
        except TimeoutError:
            raise deadline_exceeded(
                f"the request did not arrive within {BODY_SECONDS:g} s"
            ) from None

    async def _answer(self, request: Request, body: bytearray) -> Response:
        """Answers in a thread; the time that a request may take includes the wait for one."""
        deadline = time.monotonic() + self._timeout_seconds
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._work, request, body, deadline
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await work
        except TimeoutError:
            timeout_ms = self._timeout_seconds * 1000
            return _failure(deadline_exceeded(f"Timed out after {timeout_ms:g} ms"))

    def _work(self, request: Request, body: bytearray, deadline: float) -> Response:
        encoding = request.headers.get("content-encoding", "identity").lower()
        path = request.scope.get("raw_path", b"").decode("ascii", "replace")
        try:
            if request.method == "GET" and path == self._prometheus_path:
                return Response(self._entry.metrics.page(), media_type=CONTENT_TYPE)
            content = self._unpack(body, encoding)
            return _json(200, self._route(request.method, path, content, deadline))
        except StatusError as error:
            return _failure(error)

    def _unpack(self, body: bytearray, encoding: str) -> bytes:
        if encoding == "identity":
            return bytes(body)
        if encoding != "gzip":
            raise invalid_argument(f"Content-Encoding {encoding} is not supported; use gzip")
        unpacker = zlib.decompressobj(wbits=31)
        try:
            unpacked = unpacker.decompress(body, self._max_bytes + 1)
        except zlib.error as error:
            raise invalid_argument(f"the body is not gzip: {error}") from error
        if len(unpacked) > self._max_bytes:
            raise self._too_large()
        if not unpacker.eof:
            raise invalid_argument("the body is not gzip: it ends too early")
        return unpacked

    def _too_large(self) -> StatusError:
        return StatusError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"request is larger than the limit of {self._max_bytes} bytes",
        )

    def _route(self, method: str, path: str, body: bytes, deadline: float) -> dict[str, Any]:
        if self.stopping:
            raise StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        if method == "POST" and (route := _POST_ROUTE.fullmatch(path)):
            return self._infer(route, body, deadline)
        if method == "GET" and (route := _GET_ROUTE.fullmatch(path)):
            return self._entry.answer(functools.partial(self._describe, route))
        message = f"Malformed request: {method} {path}"
        if path.lower().startswith("/v1/"):
            raise invalid_argument(message)
        raise StatusError(grpc.StatusCode.NOT_FOUND, message)

    def _infer(self, route: re.Match[str], body: bytes, deadline: float) -> dict[str, Any]:
        spec = _model_spec(route)
        method = route["method"].lower()
        call = Call(_APIS[method], deadline, arrived=deadline - self._timeout_seconds)
        handler: Callable[[], dict[str, Any]] = functools.partial(
            getattr(self, f"_{method}"), spec, body
        )
        return self._entry.infer(call, "REST", spec.name, handler)

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> dict[str, Any]:
        request = parse_request(body)
        with self._entry.handlers.use(spec) as servable:
            signature_name = request.get("signature_name", "")
            signature = servable.signature(signature_name)
            inputs = read_inputs(request, signature)
            return write_outputs(request, servable.predict(signature_name, inputs), signature)

    def _classify(self, spec: model_pb2.ModelSpec, body: bytes) -> dict[str, Any]:
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        request.model_spec.signature_name = read_examples(body, request.input)
        return write_classifications(self._entry.handlers.classify(request).result)

    def _regress(self, spec: model_pb2.ModelSpec, body: bytes) -> dict[str, Any]:
        request = regression_pb2.RegressionRequest(model_spec=spec)
        request.model_spec.signature_name = read_examples(body, request.input)
        return write_regressions(self._entry.handlers.regress(request).result)

    def _describe(self, route: re.Match[str]) -> dict[str, Any]:
        """Answers with the signatures, or the status of versions."""
        spec = _model_spec(route)
        handlers = self._entry.handlers
        if not route["metadata"]:
            status = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return _as_dict(handlers.get_model_status(status))
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[SIGNATURE_DEF]
        )
        response = handlers.get_model_metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        return {
            "model_spec": _as_dict(response.model_spec),
            "metadata": {SIGNATURE_DEF: _as_dict(signatures)},
        }


def _json(code: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content).encode(), code, headers, "application/json")


def _failure(error: StatusError, headers: dict[str, str] | None = None) -> Response:
    return _json(http_code(error.code), {"error": cut(str(error))}, headers)


def _model_spec(route: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(route["name"]))
    if route["version"]:
        version = int(route["version"][:20])
        if version > _MAX_VERSION:
            raise invalid_argument(f"Failed to convert version: {route['version']} to numeric.")
        spec.version.value = version
    if route["label"]:
        spec.version_label = unquote(route["label"])
    return spec


def _as_dict(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
