"""Clients of the REST port that stall, flood, leave or send too much."""

import contextlib
import http.client
import json
import socket
import struct
import threading

import pytest

from cmdcm.core.config import ServingConfig
from cmdcm.serving import rest, rest_server
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving.stubs import WAIT, wait_for

HEAD = b"POST /v1/models/v1:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def impatient(exports, monkeypatch):
    """A server that gives clients a tenth of a second."""
    monkeypatch.setattr(rest, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(rest_server._BoundedProtocol, "idle_seconds", 0.1)
    monkeypatch.setattr(rest_server, "MAX_CONNECTIONS", 8)
    config = ServingConfig(port=0, rest_port=0, max_message_mb=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        yield server


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.rest_port), timeout=WAIT)


def app(server) -> rest.RestApp:
    assert server._rest is not None
    return server._rest._app


def connections(server) -> int:
    return len(server._rest._server.server_state.connections)


def works(server) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=WAIT)
    body = json.dumps({"instances": [[1, 1]]})
    with contextlib.closing(connection):
        try:
            connection.request("POST", "/v1/models/v1:predict", body)
            return json.loads(connection.getresponse().read()) == {"predictions": [[5.0]]}
        except OSError:
            return False


@pytest.mark.parametrize("sent", [b"", b"POST /v1/mod", b"POST / HTTP/1.1\r\nA: b\r\n"])
def test_a_client_that_stalls_before_the_body_is_left(impatient, sent):
    with connect(impatient) as stalled:
        stalled.sendall(sent)
        assert stalled.recv(1000) == b""
    wait_for(lambda: connections(impatient) == 0)
    assert works(impatient)


def test_a_client_that_drips_its_head_is_left(impatient):
    with connect(impatient) as slow:
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    slow.sendall(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        with contextlib.suppress(ConnectionError):
            assert slow.recv(1000) == b""
        stop.set()
        thread.join()


def test_a_client_that_stalls_in_the_body_gets_504(impatient):
    with connect(impatient) as stalled:
        stalled.sendall(HEAD % 100 + b"{")
        answer = stalled.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"did not arrive within 0.1 s" in answer


def test_an_answer_that_nobody_reads_is_dropped(impatient):
    body = json.dumps({"instances": [[0.123, 0.456]] * 50_000}).encode()
    clients = [connect(impatient) for _ in range(3)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.sendall(HEAD % len(body) + body)
    wait_for(lambda: connections(impatient) == 0)
    for client in clients:
        client.close()
    assert works(impatient)


def test_a_flood_of_connections_is_refused_and_passes(impatient):
    flood = [connect(impatient) for _ in range(30)]
    wait_for(lambda: connections(impatient) == 0)
    refused = 0
    for client in flood:
        with contextlib.suppress(ConnectionError):
            refused += client.recv(1000).startswith(b"HTTP/1.1 503 ")
        client.close()
    assert refused >= 15
    wait_for(lambda: works(impatient))


def test_a_hundred_megabytes_are_not_read(impatient):
    with connect(impatient) as large:
        large.sendall(HEAD % (100 << 20))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                large.sendall(b" " * (1 << 20))
        with contextlib.suppress(ConnectionError):
            assert large.recv(1000).startswith(b"HTTP/1.1 429 ")
    assert app(impatient)._held_bytes == 0
    assert works(impatient)


def test_clients_that_leave_in_the_middle_leave_nothing_behind(impatient):
    for sent in (b"POST", HEAD % 100, HEAD % 100 + b"{" * 50):
        client = connect(impatient)
        client.sendall(sent)
        # No farewell: the connection is reset.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_for(lambda: connections(impatient) == 0)
    wait_for(lambda: app(impatient)._held_bytes == 0)
    assert works(impatient)


def test_many_large_requests_at_once_are_bounded(exports):
    config = ServingConfig(port=0, rest_port=0, max_message_mb=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        part = HEAD % (1 << 20) + b" " * (1 << 19)
        clients = []
        for _ in range(8):  # half a megabyte each, of the four that are held at once
            clients.append(connect(server))
            clients[-1].sendall(part)
        wait_for(lambda: app(server)._held_bytes == 4 << 20)
        with connect(server) as one_more:
            one_more.sendall(part)
            assert one_more.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert not works(server)
        for client in clients:
            client.close()
        wait_for(lambda: works(server))
