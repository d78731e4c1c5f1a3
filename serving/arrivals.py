"""When gRPC calls came, and which of them no thread took: what their handlers cannot know."""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextvars import ContextVar
from typing import Any

import grpc

_ARRIVED: ContextVar[float] = ContextVar("arrived")


def arrived() -> float:
    """Returns the `time.monotonic()` at which the current call reached the server."""
    return _ARRIVED.get()


class CallThreads(futures.ThreadPoolExecutor):
    """Threads that run calls.

    Args:
        threads: How many.

    Attributes:
        under_way: Calls that run, or wait for a thread.
    """

    def __init__(self, threads: int):
        super().__init__(threads, thread_name_prefix="grpc")
        self.under_way = 0
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Runs a call in a thread."""
        self._add(1)
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._add(-1))
        return future

    def _add(self, calls: int) -> None:
        with self._lock:
            self.under_way += calls


class Arrivals(grpc.ServerInterceptor):
    """Notes when a call came; grpc runs this before the call waits, in the call's own context.

    Args:
        threads: The threads of the server.
        most: Calls under way above which grpc refuses one (`maximum_concurrent_rpcs`).
        refused: Told of each call that is refused.
    """

    def __init__(self, threads: CallThreads, most: int, refused: Callable[[], None]):
        self._threads = threads
        self._most = most
        self._refused = refused

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Returns the handler that the method has anyway."""
        _ARRIVED.set(time.monotonic())
        if self._threads.under_way >= self._most:
            self._refused()
        return continuation(handler_call_details)
