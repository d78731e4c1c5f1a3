"""The REST face of the embedded server: TensorFlow Serving's routes over the standard library.

    POST /v1/models/NAME[/versions/N]:predict     GET /v1/models/NAME[/versions/N][/metadata]

A thread a connection, a bounded number of connections, requests with a Content-Length only.
"""

import contextlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import grpc
from absl import logging
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from cmdcm.serving.handlers import SIGNATURE_DEF, Handlers
from cmdcm.serving.rest_json import parse_request, read_inputs, write_outputs
from cmdcm.serving.status import StatusError, cut, from_exception, http_code, invalid_argument

MAX_CONNECTIONS = 256
"""Connections at once; more are answered 503."""

IDLE_SECONDS = 30.0
"""A connection that sends nothing for so long is closed."""

_STOP_POLL_SECONDS = 0.1
_MAX_VERSION = 2**63 - 1

_MODEL = (
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
)
_POST_ROUTE = re.compile(_MODEL + r"(?P<method>:classify|:regress|:predict)", re.IGNORECASE)
_GET_ROUTE = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)


class RestServer(ThreadingHTTPServer):
    """The REST server.

    Args:
        handlers: Answers the requests.
        host: Address to listen on.
        port: Port to listen on; 0 lets the system choose.
        max_bytes: Largest request.

    Raises:
        OSError: The address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False  # `stop` waits for requests, not for idle connections
    request_queue_size = 128

    def __init__(self, handlers: Handlers, host: str, port: int, max_bytes: int):
        self.handlers = handlers
        self.max_bytes = max_bytes
        self.stopping = False
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._under_way = 0
        self._changed = threading.Condition()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _RequestHandler)
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_STOP_POLL_SECONDS,), name="rest", daemon=True
        )

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuses new connections and waits for the requests under way."""
        self.stopping = True
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, grace_seconds)

    @contextlib.contextmanager
    def request_under_way(self) -> Iterator[None]:
        """Counts a request from its first line to its answer's last byte."""
        with self._changed:
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def server_bind(self) -> None:
        """Binds without the reverse look-up of the host's name that HTTPServer makes."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, unless there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a connection that broke, mostly a client that left."""
        logging.vlog(1, "REST connection of %s broke", client_address, exc_info=True)


class _RequestHandler(BaseHTTPRequestHandler):
    """Serves the requests of one connection."""

    server: RestServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that even nonsense is answered with a status line
    timeout = IDLE_SECONDS
    wbufsize = -1  # header and body leave in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _respond(self, answer: Callable[[], Any]) -> None:
        with self.server.request_under_way():
            try:
                if self.server.stopping:
                    raise StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
                code, content = 200, answer()
            except Exception as error:  # a defect must not take the connection down
                if not isinstance(error, StatusError):
                    logging.exception("request failed")
                status = from_exception(error)
                code, content = http_code(status.code), {"error": cut(str(status))}
            self._send(code, content)
            self.wfile.flush()

    def _get(self) -> Any:
        route = _GET_ROUTE.fullmatch(self._path())
        if route is None:
            raise self._unknown_route()
        spec = _model_spec(route)
        if route["metadata"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=spec, metadata_field=[SIGNATURE_DEF]
            )
            response = self.server.handlers.get_model_metadata(request)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            response.metadata[SIGNATURE_DEF].Unpack(signatures)
            return {
                "model_spec": _as_dict(response.model_spec),
                "metadata": {SIGNATURE_DEF: _as_dict(signatures)},
            }
        status = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _as_dict(self.server.handlers.get_model_status(status))

    def _post(self) -> Any:
        body = self._body()
        route = _POST_ROUTE.fullmatch(self._path())
        if route is None:
            raise self._unknown_route()
        if route["method"].lower() != ":predict":
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{route['method'][1:]} is not served by the embedded server",
            )
        request = parse_request(body)
        with self.server.handlers.use(_model_spec(route)) as servable:
            signature_name = request.get("signature_name", "")
            signature = servable.signature(signature_name)
            inputs = read_inputs(request, signature)
            return write_outputs(request, servable.predict(signature_name, inputs), signature)

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _unknown_route(self) -> StatusError:
        message = f"Malformed request: {self.command} {self._path()}"
        if self._path().lower().startswith("/v1/"):
            return invalid_argument(message)
        return StatusError(grpc.StatusCode.NOT_FOUND, message)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            self.close_connection = True  # where the next request would start is unknown
            raise invalid_argument("a request needs a Content-Length; chunked bodies are not read")
        if int(length) > self.server.max_bytes:
            self.close_connection = True
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"request of {length} bytes is larger than the limit of {self.server.max_bytes}",
            )
        return self.rfile.read(int(length))

    def _send(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode("utf-8")
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is not even HTTP as we know it, in JSON as all else."""
        self.close_connection = True
        self._send(code, {"error": message or self.responses[code][0]})

    def log_message(self, format: str, *args: Any) -> None:
        """Logs a request at verbosity 1; a line a request would be the slowest part of it."""
        logging.vlog(1, "REST " + format, *args)


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
