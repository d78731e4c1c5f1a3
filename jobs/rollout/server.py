"""One running server, as a roll-out sees it: states of versions, labels, reload, scores."""

import socket
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.closing import Closing
from cmdcm.core.errors import ConfigError, ServingError
from cmdcm.serving.channels import ClientTls, open_channel
from cmdcm.serving.handlers import SIGNATURE_DEF
from cmdcm.serving.status import StatusError
from cmdcm.serving.tensors import from_protos
from cmdcm.serving.version_status import State, VersionStatus

_DNS = "dns:///"


def addresses(targets: list[str]) -> list[str]:
    """Returns the server addresses that targets mean; a roll-out has to reach every one.

    Args:
        targets: HOST:PORT for one server, `dns:///HOST:PORT` for all addresses of a name, such as
            a headless service's.

    Raises:
        ConfigError: A target that is neither.
        ServingError: A name that does not resolve.

    Example:
        >>> addresses(["127.0.0.1:8500", "dns:///127.0.0.1:8510"])
        ['127.0.0.1:8500', '127.0.0.1:8510']
    """
    found: list[str] = []
    for target in targets:
        host, _, port = target.removeprefix(_DNS).rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"target {target!r} should be HOST:PORT or {_DNS}HOST:PORT")
        if not target.startswith(_DNS):
            found.append(target)
            continue
        try:
            infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise ServingError(f"target {target}: {error.strerror}") from error
        for family, *_, address in infos:
            ip = f"[{address[0]!s}]" if family == socket.AF_INET6 else str(address[0])
            found.append(f"{ip}:{port}")
    return list(dict.fromkeys(found))


class Server(Closing):
    """A running server, real or embedded.

    Args:
        target: HOST:PORT.
        model: Name of the model.
        deadline_ms: Deadline of every call.
        max_message_mb: Largest request and answer.
        tls: None for plain text.
    """

    def __init__(
        self,
        target: str,
        model: str,
        deadline_ms: int = 10_000,
        max_message_mb: int = 64,
        tls: ClientTls | None = None,
    ):
        self.target = target
        self._model = model
        self._seconds = deadline_ms / 1000
        self._max_bytes = max_message_mb << 20
        self._channel = open_channel(target, self._max_bytes, tls)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def statuses(self) -> dict[int, VersionStatus]:
        """Returns what GetModelStatus tells of every version.

        Raises:
            StatusError: The call failed.
        """
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model
        answer = self._call(self._models.GetModelStatus, request, "GetModelStatus")
        return {
            status.version: VersionStatus(
                status.version,
                State(status.state),
                _code(status.status.error_code),
                status.status.error_message,
            )
            for status in answer.model_version_status
        }

    def available(self) -> list[int]:
        """Returns the versions that serve, in ascending order.

        Raises:
            StatusError: The call failed.
        """
        states = self.statuses()
        return sorted(v for v, status in states.items() if status.state == State.AVAILABLE)

    def labelled(self, label: str) -> int | None:
        """Returns the version that a label means to the server; None if it knows no such label.

        GetModelStatus does not tell labels; GetModelMetadata answers with the version meant.

        Raises:
            StatusError: The call failed otherwise.
        """
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF])
        request.model_spec.name = self._model
        request.model_spec.version_label = label
        try:
            answer = self._call(self._prediction.GetModelMetadata, request, "GetModelMetadata")
        except StatusError as error:
            if error.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
                return None
            raise
        return int(answer.model_spec.version.value)

    def reload(self, config: ModelServerConfig) -> None:
        """Replaces all that the server serves.

        Raises:
            StatusError: It was refused, with the server's reason.
        """
        request = model_management_pb2.ReloadConfigRequest(config=config)
        answer = self._call(
            self._models.HandleReloadConfigRequest, request, "HandleReloadConfigRequest"
        )
        if answer.status.error_code:
            code = _code(answer.status.error_code)
            raise StatusError(
                code,
                f"{self.target} refused the reload: {code.name}: {answer.status.error_message}",
            )

    def scores(self, request: predict_pb2.PredictRequest, version: int, output: str) -> np.ndarray:
        """Returns one output of a version for a request, flat, as float64.

        Raises:
            StatusError: The call failed.
            ServingError: The version has no such output.
        """
        asked = predict_pb2.PredictRequest()
        asked.CopyFrom(request)
        asked.model_spec.name = self._model
        asked.model_spec.version.value = version
        del asked.output_filter[:]
        asked.output_filter.append(output)
        answer = self._call(self._prediction.Predict, asked, f"Predict of version {version}")
        try:
            scores = from_protos(answer.outputs, self._max_bytes)[output]
            return np.asarray(scores, np.float64).ravel()
        except (KeyError, ValueError) as error:
            raise ServingError(
                f"{self.target}: version {version} answers no scores {output!r}: {error}"
            ) from error

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _call(self, method: Any, request: Message, what: str) -> Any:
        try:
            return method(request, timeout=self._seconds)
        except grpc.RpcError as error:
            raise StatusError(
                error.code(),
                f"{what} at {self.target} failed: {error.code().name}: {error.details()}",
            ) from error


def _code(number: int) -> Any:
    return next(
        (code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN
    )
