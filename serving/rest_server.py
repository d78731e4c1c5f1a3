"""The HTTP server of the REST API: uvicorn in a thread, with bounds on what clients may hold.

uvicorn (with the parser h11) reads and writes HTTP. It sets no bound on a connection that sends
nothing, or an answer that nobody reads; those are here.
"""

import asyncio
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cmdcm.serving.rest import RestApp

MAX_CONNECTIONS = 256
"""Connections at once; more are closed with a 503."""

IDLE_SECONDS = 30
"""A connection on which no request is under way for so long, or twice that, is closed."""

_MAX_HEAD_BYTES = 64 << 10
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b'Content-Length: 33\r\nConnection: close\r\n\r\n{"error": "too many connections"}'
)


class _BoundedProtocol(H11Protocol):
    """One connection, which ends when its client neither asks nor reads."""

    idle_seconds = IDLE_SECONDS
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses a connection too many, and watches the others."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_TOO_MANY)
            transport.close()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Looks again later."""
        seen = object() if self._under_way() else self.cycle
        self._look = self.loop.call_later(self.idle_seconds, self._end_if_idle, seen)

    def _end_if_idle(self, seen: object) -> None:
        """Ends a connection on which no request has begun or ended since the last look."""
        if self.cycle is seen and not self._under_way():
            self.transport.abort()  # not `close`, which waits until the last answer is read
        else:
            self._watch()

    def _under_way(self) -> bool:
        request = self.cycle is not None and not self.cycle.response_complete
        return request and not self.transport.is_closing()


class RestServer:
    """The REST server.

    Args:
        app: Answers the requests; the server closes it.
        host: Address to listen on.
        port: Port to listen on; 0 lets the system choose.

    Attributes:
        port: The port it listens on.

    Raises:
        OSError: The address cannot be bound.
    """

    def __init__(self, app: RestApp, host: str, port: int):
        self._app = app
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=128)
        self.port = int(self._socket.getsockname()[1])
        config: dict[str, Any] = {
            "http": _BoundedProtocol,
            "loop": "asyncio",
            "ws": "none",
            "lifespan": "off",
            "interface": "asgi3",
            "log_config": None,  # the program's own logging
            "access_log": False,
            "server_header": False,
            "timeout_keep_alive": IDLE_SECONDS,
            "h11_max_incomplete_event_size": _MAX_HEAD_BYTES,
        }
        self._server = uvicorn.Server(uvicorn.Config(app, **config))
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="rest", daemon=True
        )

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuses new connections and waits for the requests under way."""
        self._app.stopping = True
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_seconds))
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        self._app.close()
