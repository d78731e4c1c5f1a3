"""The scoring client: typed requests to TensorFlow Serving's protocol, real or embedded server.

One channel lives as long as the client. Every call has a deadline. A call that finds no server is
tried again twice, as long as few calls fail; no other failure is.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from cmdcm.core.errors import ServingError
from cmdcm.features.spec import FeatureSpec
from cmdcm.serving.requests import candidate_arrays, chunks, pad_rows, user_arrays
from cmdcm.serving.servable import DEFAULT_SIGNATURE
from cmdcm.serving.status import StatusError
from cmdcm.serving.tensors import byte_strings, from_protos, to_proto

CANDIDATES_SIGNATURE = "score_candidates"
EXAMPLES_INPUT = "examples"

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # A failure takes one token, a success gives a tenth; below half of them nothing is retried, so
    # that retries cannot bury a service that is already down.
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
}

_HINTS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "raise the deadline (serving.deadline_ms) or send less",
    grpc.StatusCode.UNAVAILABLE: "is a server listening there?",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the server is overloaded, or the message too large",
}


@dataclass(frozen=True)
class Scores:
    """The answer to a scoring call.

    Attributes:
        outputs: The outputs by name; for cmdcm's signatures each is float32 [N].
        version: Number of the model version that answered.
        model_name: Name of the model.
        signature: Signature that answered.
    """

    outputs: Mapping[str, np.ndarray]
    version: int
    model_name: str
    signature: str

    def __getitem__(self, name: str) -> np.ndarray:
        return self.outputs[name]


class ScoringClient:
    """Scores users and candidates with a served model; safe to call from many threads.

    Args:
        target: HOST:PORT, or any gRPC target; with `dns:///HOST:PORT` or
            `ipv4:HOST:PORT,HOST:PORT` calls go round all addresses.
        model_name: Name of the served model.
        spec: The model's features; needed for `score_candidates`.
        version: The version to ask for; None for the newest.
        deadline_ms: Deadline of every call.
        max_message_mb: Largest request and answer.
        sizes: Candidate counts that the model was warmed up with; requests are padded to them.

    Example:
        >>> with ScoringClient("127.0.0.1:8500", "cmdcm", spec) as client:  # doctest: +SKIP
        ...     scores = client.score_candidates(user, candidates)
        ...     scores["p_conversion"]
    """

    def __init__(
        self,
        target: str,
        model_name: str,
        spec: FeatureSpec | None = None,
        version: int | None = None,
        deadline_ms: int = 1000,
        max_message_mb: int = 64,
        sizes: Sequence[int] = (1, 10, 100, 500),
    ):
        self.target = target
        self.model_name = model_name
        self.spec = spec
        self.version = version
        self.deadline_ms = deadline_ms
        self.sizes = tuple(sorted(sizes))
        if not self.sizes or self.sizes[0] < 1:
            raise ServingError(f"sizes should be positive counts. Received: {sizes}")
        self._max_bytes = max_message_mb << 20
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
                ("grpc.max_receive_message_length", self._max_bytes),
                ("grpc.max_send_message_length", self._max_bytes),
                # Pings only while calls are under way, as servers forbid others by default; with
                # them the kernel also gives up a dead connection within the timeout.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 5_000),
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> Scores:
        """Calls any signature with named arrays; the server checks them.

        Raises:
            StatusError: The call failed, with its code.
        """
        request = self._request(signature or DEFAULT_SIGNATURE, self.version)
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(to_proto(_as_array(name, value)))
        return self._scores(self._call(lambda: self._stub.Predict(request, self._seconds())))

    def score_examples(self, examples: Sequence[bytes]) -> Scores:
        """Scores serialized tf.train.Examples, [N], with the signature `serving_default`.

        Raises:
            StatusError: The call failed, with its code.
            ServingError: There are no examples.
        """
        if not len(examples):
            raise ServingError("a request needs at least one example")
        return self.predict(DEFAULT_SIGNATURE, {EXAMPLES_INPUT: list(examples)})

    def score_candidates(self, user: Mapping[str, Any], candidates: Mapping[str, Any]) -> Scores:
        """Scores N candidates of one user with the signature `score_candidates`.

        N is padded to the next of the warmed-up `sizes` with copies of the last candidate, whose
        scores are cut from the answer. Above the largest size the candidates go in several calls
        at once, all answered by one model version, within one deadline.

        Args:
            user: Value of each user and context feature, see `requests.user_arrays`.
            candidates: Value of each item and cross feature, [N] or [N, length].

        Raises:
            StatusError: A call failed, with its code.
            ServingError: Names the feature that is unknown, missing or does not fit.
        """
        if self.spec is None:
            raise ServingError("score_candidates needs the client's `spec` (feature_spec.json)")
        deadline = time.monotonic() + self._seconds()
        user_protos = {k: to_proto(v) for k, v in user_arrays(self.spec, user).items()}
        arrays = candidate_arrays(self.spec, candidates)
        count = len(next(iter(arrays.values())))
        requests = []
        for start, stop, size in chunks(count, self.sizes):
            request = self._request(CANDIDATES_SIGNATURE, self.version)
            for name, proto in user_protos.items():
                request.inputs[name].CopyFrom(proto)
            for name, array in arrays.items():
                request.inputs[name].CopyFrom(to_proto(pad_rows(array[start:stop], size)))
            requests.append(request)
        answers = self._call_all(requests, deadline)
        outputs = {
            name: np.concatenate([answer[name] for answer in answers])[:count]
            for name in answers[0].outputs
        }
        return Scores(outputs, answers[0].version, self.model_name, CANDIDATES_SIGNATURE)

    def _call_all(
        self, requests: Sequence[predict_pb2.PredictRequest], deadline: float
    ) -> list[Scores]:
        """Makes the calls at once; all answers are of one version."""
        if len(requests) == 1:
            call = self._call(lambda: self._stub.Predict(requests[0], _until(deadline)))
            return [self._scores(call)]
        answers = self._gather(requests, deadline)
        newest = max(answer.version for answer in answers)
        for index, answer in enumerate(answers):
            if answer.version != newest:  # the model was swapped between the calls
                requests[index].model_spec.version.value = newest
                answers[index] = self._gather([requests[index]], deadline)[0]
        return answers

    def _gather(
        self, requests: Sequence[predict_pb2.PredictRequest], deadline: float
    ) -> list[Scores]:
        calls = [self._stub.Predict.future(request, _until(deadline)) for request in requests]
        try:
            return [self._scores(self._call(call.result)) for call in calls]
        finally:
            for call in calls:
                call.cancel()  # after a failure of one; no effect on those that ended

    def _request(self, signature: str, version: int | None) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model_name
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        return request

    def _seconds(self) -> float:
        return self.deadline_ms / 1000

    def _call(self, call: Callable[[], predict_pb2.PredictResponse]) -> predict_pb2.PredictResponse:
        try:
            return call()
        except grpc.RpcError as error:
            code = error.code()
            hint = f" ({_HINTS[code]})" if code in _HINTS else ""
            raise StatusError(
                code,
                f"scoring with {self.model_name!r} at {self.target} failed: {code.name}, deadline "
                f"{self.deadline_ms} ms: {error.details()}{hint}",
            ) from error

    def _scores(self, response: predict_pb2.PredictResponse) -> Scores:
        try:
            outputs = from_protos(response.outputs, self._max_bytes)
        except ValueError as error:
            raise ServingError(f"answer of {self.target} is not usable: {error}") from error
        spec = response.model_spec
        return Scores(outputs, spec.version.value, spec.name, spec.signature_name)


def _until(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        return byte_strings(value) if array.dtype.kind in "SUO" else array
    except ValueError as error:
        raise ServingError(f"input {name!r} is not a tensor: {error}") from error
