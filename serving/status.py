"""Statuses of the serving protocol: gRPC codes, their HTTP counterparts, and the one error type.

Server and client share `StatusError`. The server raises it where TensorFlow Serving answers with
that code; the client raises it with the code that came back.
"""

import grpc
import tensorflow as tf

from cmdcm.core.errors import ServingError

MAX_MESSAGE_CHARS = 1024
"""TensorFlow Serving cuts longer messages, because gRPC sends them as an HTTP/2 header."""

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

_HTTP = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class StatusError(ServingError):
    """A call that ended with a status other than OK.

    Attributes:
        code: The gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def cut(message: str) -> str:
    """Returns the first `MAX_MESSAGE_CHARS` characters of a message.

    Example:
        >>> len(cut("x" * 5000))
        1024
    """
    return message[:MAX_MESSAGE_CHARS]


def invalid_argument(message: str) -> StatusError:
    """Returns the error for a request that no state of the server could answer."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """Returns the error for a model or version that is not there."""
    return StatusError(grpc.StatusCode.NOT_FOUND, message)


def http_code(code: grpc.StatusCode) -> int:
    """Returns the HTTP status with which TensorFlow Serving's REST API answers.

    Example:
        >>> http_code(grpc.StatusCode.FAILED_PRECONDITION), http_code(grpc.StatusCode.DATA_LOSS)
        (400, 500)
    """
    return _HTTP.get(code, 500)


def from_exception(error: Exception) -> StatusError:
    """Turns an exception of the serving path into a status.

    TensorFlow's error codes are gRPC's numbers. Any other exception is INTERNAL: a defect of ours
    or of a library, never the caller's fault.
    """
    if isinstance(error, StatusError):
        return error
    if isinstance(error, tf.errors.OpError):
        code = _BY_NUMBER.get(error.error_code, grpc.StatusCode.UNKNOWN)
        return StatusError(code, error.message or str(error))
    return StatusError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
