"""The scoring clients, sync and asyncio: typed requests to TensorFlow Serving's protocol.

They speak to tensorflow_model_server and to the embedded server alike. What a request holds and how
its answer is read is in `cmdcm.serving.scoring`, the channel's settings are in
`cmdcm.serving.channels`.
"""

import abc
import time
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio
from tensorflow_serving.apis import prediction_service_pb2_grpc

from cmdcm.core.closing import Closing
from cmdcm.features.spec import FeatureSpec
from cmdcm.serving.channels import ClientTls, open_channel
from cmdcm.serving.request_log import RequestLog
from cmdcm.serving.scoring import (
    CANDIDATES_SIGNATURE,
    Plan,
    Requests,
    Responses,
    Scores,
    Scoring,
)

Answer = TypeVar("Answer")


class Client(abc.ABC, Generic[Answer]):
    """The calls that both clients have; `Answer` is `Scores`, or a coroutine of them.

    Args:
        target: HOST:PORT, or any gRPC target; with `dns:///HOST:PORT` or
            `ipv4:HOST:PORT,HOST:PORT` calls go round all addresses.
        model_name: Name of the served model.
        spec: The model's features; needed for `score_candidates`.
        version: The version to ask for; None for the label's, or else the newest.
        deadline_ms: Deadline of every scoring call, from the making of its requests on.
        max_message_mb: Largest request and answer.
        sizes: Candidate counts that the model was warmed up with; requests are padded to them.
        label: The version label to ask for, such as `canary`; empty for none.
        tls: How to trust the server and what to show it; None for plain text.
        request_log: Where a sample of the answered calls is logged; its owner closes it.

    Raises:
        ServingError: Both a version and a label, or sizes that are no counts.
        ConfigError: A PEM text that cannot be read.
    """

    _grpc: Any = grpc

    def __init__(
        self,
        target: str,
        model_name: str,
        spec: FeatureSpec | None = None,
        version: int | None = None,
        deadline_ms: int = 1000,
        max_message_mb: int = 64,
        sizes: Sequence[int] = (1, 10, 100, 500),
        *,
        label: str = "",
        tls: ClientTls | None = None,
        request_log: RequestLog | None = None,
    ):
        self._scoring = Scoring(
            target,
            model_name,
            spec,
            version=version,
            label=label,
            deadline_ms=deadline_ms,
            max_bytes=max_message_mb << 20,
            sizes=sizes,
            request_log=request_log,
        )
        self._channel = open_channel(target, self._scoring.max_bytes, tls, self._grpc)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    @property
    def target(self) -> str:
        """Where the calls go."""
        return self._scoring.target

    @property
    def model_name(self) -> str:
        """Name of the model that is asked."""
        return self._scoring.model_name

    @property
    def sizes(self) -> tuple[int, ...]:
        """Candidate counts to which requests are padded, ascending."""
        return self._scoring.sizes

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> Answer:
        """Calls any signature with named arrays; the server checks them.

        Raises:
            StatusError: The call failed, with its code.
        """
        return self._run(self._scoring.predict(signature, inputs))

    def score_examples(self, examples: Sequence[bytes]) -> Answer:
        """Scores serialized tf.train.Examples, [N], with the signature `serving_default`.

        Above the largest of `sizes` they go in several calls at once, all answered by one model
        version, within one deadline.

        Raises:
            StatusError: The call failed, with its code.
            ServingError: There are no examples.
        """
        return self._run(self._scoring.score_examples(examples))

    def score_candidates(
        self,
        user: Mapping[str, Any],
        candidates: Mapping[str, Any],
        signature: str = CANDIDATES_SIGNATURE,
    ) -> Answer:
        """Scores N candidates of one user.

        N is padded to the next of the warmed-up `sizes` with copies of the last candidate, whose
        scores are cut from the answer. Above the largest size the candidates go in several calls
        at once, all answered by one model version, within one deadline.

        Args:
            user: Value of each user and context feature, see `requests.user_arrays`.
            candidates: Value of each item and cross feature, [N] or [N, length].
            signature: `score_candidates`, or `serving_default` for a server that has no other: the
                same as N tf.train.Examples, each with the user, and without padding.

        Raises:
            StatusError: A call failed, with its code.
            ServingError: Names the feature that is unknown, missing or does not fit.
        """
        return self._run(self._scoring.score_candidates(user, candidates, signature))

    @abc.abstractmethod
    def _run(self, plan: Plan) -> Answer:
        """Makes the calls of a plan."""

    def _deadline(self) -> float:
        return time.monotonic() + self._scoring.deadline_ms / 1000


class ScoringClient(Client[Scores], Closing):
    """Scores users and candidates with a served model; safe to call from many threads.

    Takes the arguments of `Client` and has its calls.

    Example:
        >>> with ScoringClient("127.0.0.1:8500", "cmdcm", spec) as client:  # doctest: +SKIP
        ...     scores = client.score_candidates(user, candidates)
        ...     scores["p_conversion"]
    """

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _run(self, plan: Plan) -> Scores:
        deadline = self._deadline()
        try:
            requests = next(plan)
            while True:
                try:
                    responses = self._call(requests, deadline)
                except grpc.RpcError as error:
                    requests = plan.throw(self._scoring.failure(error))
                else:
                    requests = plan.send(responses)
        except StopIteration as done:
            scores: Scores = done.value
            return scores

    def _call(self, requests: Requests, deadline: float) -> Responses:
        if len(requests) == 1:
            return [self._stub.Predict(requests[0], _until(deadline))]
        calls = [self._stub.Predict.future(request, _until(deadline)) for request in requests]
        try:
            return [call.result() for call in calls]
        finally:
            for call in calls:
                call.cancel()  # after a failure of one; no effect on those that ended


class AsyncScoringClient(Client[Coroutine[Any, Any, Scores]]):
    """The same for asyncio, on one event loop; make it inside a coroutine.

    Takes the arguments of `Client` and has its calls, each to be awaited.

    Example:
        >>> async with AsyncScoringClient(target, "cmdcm", spec) as client:  # doctest: +SKIP
        ...     scores = await client.score_candidates(user, candidates)
    """

    _grpc = grpc.aio

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, plan: Plan) -> Scores:
        deadline = self._deadline()
        try:
            requests = next(plan)
            while True:
                try:
                    responses = await self._call(requests, deadline)
                except grpc.RpcError as error:
                    requests = plan.throw(self._scoring.failure(error))
                else:
                    requests = plan.send(responses)
        except StopIteration as done:
            scores: Scores = done.value
            return scores

    async def _call(self, requests: Requests, deadline: float) -> Responses:
        calls = [self._stub.Predict(request, timeout=_until(deadline)) for request in requests]
        try:
            return [await call for call in calls]
        finally:
            for call in calls:
                call.cancel()


def _until(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
