"""The gRPC face of the embedded server, on the official generated stubs.

Served: PredictionService.Predict and GetModelMetadata, ModelService.GetModelStatus, and gRPC's own
health service. The other calls of these services answer UNIMPLEMENTED.
"""

import os
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn

import grpc
from absl import logging
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from cmdcm.serving.handlers import Handlers
from cmdcm.serving.status import StatusError, cut, from_exception

SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")

THREADS = 4 * (os.cpu_count() or 1)
"""Threads that run calls, as many as tensorflow_model_server's `grpc_max_threads`."""

MAX_CONCURRENT_CALLS = 32 * THREADS
"""Calls under way and waiting for a thread; more are answered RESOURCE_EXHAUSTED."""


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, handlers: Handlers):
        self._handlers = handlers

    def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        return _answer(self._handlers.predict, request, context)

    def GetModelMetadata(  # noqa: N802
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _answer(self._handlers.get_model_metadata, request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _unimplemented("Classify", context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _unimplemented("Regress", context)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _unimplemented("MultiInference", context)


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, handlers: Handlers):
        self._handlers = handlers

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return _answer(self._handlers.get_model_status, request, context)

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> NoReturn:
        _unimplemented("HandleReloadConfigRequest", context)


class GrpcServer:
    """The gRPC server: a bounded pool of threads, and a bounded queue before it.

    Args:
        handlers: Answers the calls.
        address: HOST:PORT to listen on; port 0 lets the system choose.
        max_message_mb: Largest request and response.

    Attributes:
        port: The port it listens on.

    Raises:
        RuntimeError: The address cannot be bound.
    """

    def __init__(self, handlers: Handlers, address: str, max_message_mb: int):
        self._health = health.HealthServicer()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"),
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
            options=[
                ("grpc.max_receive_message_length", max_message_mb << 20),
                ("grpc.max_send_message_length", max_message_mb << 20),
                ("grpc.so_reuseport", 0),  # a second server on a busy port should fail
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(handlers), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(handlers), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(address)

    def start(self) -> None:
        """Starts to answer and reports SERVING to health checks."""
        for service in ("", *SERVICES):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()

    def stop(self, grace_seconds: float) -> threading.Event:
        """Reports NOT_SERVING and refuses new calls; cancels what is left after the grace.

        Returns:
            An event that is set once no call is under way.
        """
        self._health.enter_graceful_shutdown()
        return self._server.stop(grace_seconds)


def _answer(handler: Callable[[Any], Any], request: Any, context: grpc.ServicerContext) -> Any:
    """Runs a handler; its error becomes the call's status."""
    if not context.is_active():
        # The deadline passed, or the caller left, while the call waited for a thread.
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "expired before it was run")
    try:
        return handler(request)
    except StatusError as error:
        status = error
    except Exception as error:  # a defect must not take the connection down
        logging.exception("call failed")
        status = from_exception(error)
    return context.abort(status.code, cut(str(status)))


def _unimplemented(call: str, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{call} is not served by the embedded server")
    raise AssertionError("abort raises")
