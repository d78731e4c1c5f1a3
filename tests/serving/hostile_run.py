"""Sends hostile requests to a running server and looks at what it answers, and at its memory."""

import contextlib
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from cmdcm.benchmarks.server_process import ServerProcess
from cmdcm.serving.tensors import from_proto
from cmdcm.tests.serving.hostile_requests import (
    PREDICTION,
    RELOAD,
    GrpcRequest,
    HostileRequests,
    RestRequest,
)
from cmdcm.tests.serving.models import OUTPUTS, candidate_arrays, expected, user_arrays
from cmdcm.tests.serving.stubs import candidates_request

DEADLINE_SECONDS = 20.0
PATIENCE_SECONDS = 0.02
"""How long the server may take to answer what may be no whole request, before the client ends its
side of the connection."""

GOOD_EVERY = 50
"""So many hostile requests are followed by a good one."""

NO_PROTO = "INTERNAL (no proto)"
CLOSED = "REST closed"
CODES = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "NOT_FOUND",
        "UNIMPLEMENTED",
        "RESOURCE_EXHAUSTED",
        NO_PROTO,
        *(f"REST {code}" for code in (200, 400, 404, 429)),
        CLOSED,
    }
)
"""Codes with which hostile requests may be answered (docs/conformity.md). A request of REST that
ends too early is left without an answer; a reload may be UNKNOWN, too."""

_DESERIALIZING = "Exception deserializing request!"
_HUGE_BYTES = 100 << 20


@dataclass
class Outcome:
    """What became of hostile requests.

    Attributes:
        codes: Answers by code.
        faults: What should not have happened, for people.
        good: Good requests in between that were answered right.
        slowest: Seconds of the slowest answer.
        grown_mb: Growth of the server's memory after the warm-up.
        grown_late_mb: Of that, in the second half of these requests.
    """

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    good: int = 0
    slowest: float = 0.0
    grown_mb: float = 0.0
    grown_late_mb: float = 0.0


class Attacker:
    """Sends requests to a server one after the other.

    Args:
        server: The server, with the models `tiny` and `examples`.
        requests: The requests.
        reload: The serialized reload request of what the server is to serve.
    """

    def __init__(self, server: ServerProcess, requests: HostileRequests, reload: bytes):
        self._server = server
        self._requests = requests
        self._reload = reload
        self._outcome = Outcome()
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(server.target, options)

    def run(self, count: int, warmup: int) -> Outcome:
        """Sends the requests 0 to `count`; memory counts from number `warmup` on."""
        before = middle = 0.0
        for number in range(count):
            if number == warmup:
                before = self._server.resident_mb
            if number == (warmup + count) // 2:
                middle = self._server.resident_mb
            self._send(number)
            if number % GOOD_EVERY == 0:
                self._good(f"after request {number}")
            if self._server.process.poll() is not None:
                self._outcome.faults.append(f"the server ended at request {number}")
                return self._outcome
        self._outcome.grown_mb = self._server.resident_mb - before
        self._outcome.grown_late_mb = self._server.resident_mb - middle
        return self._outcome

    def abuse(self) -> Outcome:
        """Stalls, floods, disconnects and sends 100 MB; good requests are answered all the time."""
        with self._stalled(20):
            self._good("beside clients that stall")
            self._flood(300)
            self._good("after a flood")
        self._disconnect(100)
        self._good("after clients that left")
        self._huge()
        self._good("after 100 MB")
        return self._outcome

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _call(self, method: str, content: bytes) -> tuple[str, str, bytes]:
        """Returns code, message and answer of a call."""
        try:
            answer = self._channel.unary_unary(method)(content, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", b""
        return "OK", "", answer

    def _send(self, number: int) -> None:
        request = self._requests.make(number)
        started = time.monotonic()
        if isinstance(request, RestRequest):
            code, message = self._send_rest(request)
        else:
            code, message = self._send_grpc(request)
        self._outcome.slowest = max(self._outcome.slowest, time.monotonic() - started)
        self._note(code, f"request {number}: {code}: {message}")

    def _note(self, code: str, fault: str) -> None:
        self._outcome.codes[code] += 1
        if code not in CODES:
            self._outcome.faults.append(fault)

    def _send_grpc(self, request: GrpcRequest) -> tuple[str, str]:
        code, message, _ = self._call(request.method, request.content)
        if code == "INTERNAL" and message == _DESERIALIZING:
            code = NO_PROTO
        if request.method == RELOAD:
            if code == "OK":  # the config could be put in place, so what it replaced is put back
                code, message, _ = self._call(RELOAD, self._reload)
            elif code == "UNKNOWN":  # a new model cannot be loaded
                code = "FAILED_PRECONDITION"
        return code, message

    def _send_rest(self, request: RestRequest) -> tuple[str, str]:
        received = bytearray()
        try:
            with self._connect() as connection:
                with contextlib.suppress(OSError):  # answered and closed before all was sent
                    connection.sendall(request.content)
                if not request.whole:
                    select.select([connection], [], [], PATIENCE_SECONDS)
                    connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(1 << 16):
                    received += chunk
        except TimeoutError:
            return "REST no answer", f"to {request.content[:200]!r}"
        except OSError:
            pass  # reset; what was received counts
        return _rest_code(bytes(received)), received[:300].decode("utf-8", "replace")

    def _connect(self) -> socket.socket:
        address = ("127.0.0.1", self._server.rest_port)
        return socket.create_connection(address, timeout=DEADLINE_SECONDS)

    def _good(self, when: str) -> None:
        request = candidates_request().SerializeToString()
        code, message, answer = self._call(PREDICTION + "Predict", request)
        if code == "OK" and _is_right(predict_pb2.PredictResponse.FromString(answer)):
            self._outcome.good += 1
        else:
            self._outcome.faults.append(f"{when} a good request is answered {code}: {message}")

    @contextlib.contextmanager
    def _stalled(self, count: int) -> Iterator[None]:
        """Holds connections that began something and never go on, on both ports."""
        host, _, port = self._server.target.rpartition(":")
        starts = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v1/models/tiny:pre")
        with contextlib.ExitStack() as stack:
            for number in range(count):
                for at in ((host, int(port)), ("127.0.0.1", self._server.rest_port)):
                    connection = stack.enter_context(socket.create_connection(at))
                    connection.sendall(starts[number % len(starts)])
            yield

    def _flood(self, count: int) -> None:
        call = self._channel.unary_unary(PREDICTION + "Predict")
        request = candidates_request(500).SerializeToString()
        futures = [call.future(request, timeout=DEADLINE_SECONDS) for _ in range(count)]
        for future in futures:
            self._note(future.code().name, f"in a flood: {future.code().name}: {future.details()}")

    def _disconnect(self, count: int) -> None:
        call = self._channel.unary_unary(PREDICTION + "Predict")
        request = candidates_request(500).SerializeToString()
        for number in range(count):
            call.future(request, timeout=DEADLINE_SECONDS).cancel()
            with self._connect() as connection:
                connection.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\n")
                connection.sendall(b"Content-Length: 999\r\n\r\n{" if number % 2 else b"")
                reset = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

    def _huge(self) -> None:
        code, message, _ = self._call(PREDICTION + "Predict", bytes(_HUGE_BYTES))
        self._note(code, f"100 MB of gRPC: {code}: {message}")
        head = f"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {_HUGE_BYTES}"
        code, message = self._send_rest(
            RestRequest(head.encode() + b"\r\n\r\n" + bytes(_HUGE_BYTES), whole=True)
        )
        self._note(code, f"100 MB of REST: {code}: {message}")


def _rest_code(received: bytes) -> str:
    """Returns `REST CODE` of the last status line that is no interim one."""
    while received.startswith(b"HTTP/1.1 100 "):
        received = received.partition(b"\r\n\r\n")[2]
    return f"REST {received[9:12].decode('ascii', 'replace')}" if received else CLOSED


def _is_right(answer: predict_pb2.PredictResponse) -> bool:
    version = answer.model_spec.version.value
    wanted = expected(user_arrays(), candidate_arrays(3), version)
    return set(answer.outputs) == set(OUTPUTS) and all(
        np.allclose(from_proto(answer.outputs[name], 1 << 20), wanted[name], atol=1e-5)
        for name in OUTPUTS
    )
