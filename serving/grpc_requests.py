"""Answers calls whose bytes are no request, in grpc's place.

grpc 1.85 keeps about 20 KB for each call whose deserializer raised, for as long as the server runs,
and logs a traceback. So the deserializers here never raise, and the call is aborted later, with the
code and message of grpc.
"""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

_NO_REQUEST = object()

_Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class RequestReader(grpc.ServerInterceptor):
    """Interceptor of a server whose requests are protos and not streams."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Returns the handler of a method, made to read requests in this way; None if unknown."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = _reading(handler)
        return self._handlers[method]


def _reading(handler: Any) -> grpc.RpcMethodHandler:
    make, behaviour = (
        (grpc.unary_stream_rpc_method_handler, handler.unary_stream)
        if handler.response_streaming
        else (grpc.unary_unary_rpc_method_handler, handler.unary_unary)
    )
    return make(
        _checked(behaviour), _forgiving(handler.request_deserializer), handler.response_serializer
    )


def _forgiving(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(content: bytes) -> Any:
        try:
            return deserialize(content)
        except DecodeError:
            return _NO_REQUEST

    return read


def _checked(behaviour: _Behaviour) -> _Behaviour:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if request is _NO_REQUEST:
            context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        return behaviour(request, context)

    return answer
