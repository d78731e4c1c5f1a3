"""What sync and asyncio clients have in common: everything but waiting for the network.

A scoring call is a `Plan`: a generator that yields the requests to send at once, is sent their
responses or thrown the `StatusError` of the first that failed, and returns the scores. Whoever
drives it makes the calls, blocking or awaiting.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from cmdcm.core.errors import ServingError
from cmdcm.features.spec import FeatureSpec
from cmdcm.serving.example_requests import serialized_examples
from cmdcm.serving.request_log import RequestLog
from cmdcm.serving.requests import candidate_arrays, chunks, pad_rows, user_arrays
from cmdcm.serving.servable import DEFAULT_SIGNATURE
from cmdcm.serving.status import StatusError
from cmdcm.serving.tensors import byte_strings, fill_proto, from_protos

CANDIDATES_SIGNATURE = "score_candidates"
SIGNATURES = (DEFAULT_SIGNATURE, CANDIDATES_SIGNATURE)
EXAMPLES_INPUT = "examples"

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


Requests = Sequence[predict_pb2.PredictRequest]
Responses = Sequence[predict_pb2.PredictResponse]
Plan = Generator[Requests, Responses, Scores]


class Scoring:
    """Makes the requests of scoring calls and reads their answers; safe to use in many threads.

    The arguments are those of `cmdcm.serving.client.Client`, where they are explained.
    """

    def __init__(
        self,
        target: str,
        model_name: str,
        spec: FeatureSpec | None,
        *,
        version: int | None,
        label: str,
        deadline_ms: int,
        max_bytes: int,
        sizes: Sequence[int],
        request_log: RequestLog | None,
    ):
        self.target = target
        self.model_name = model_name
        self.spec = spec
        self.version = version
        self.label = label
        self.deadline_ms = deadline_ms
        self.max_bytes = max_bytes
        self.sizes = tuple(sorted(sizes))
        self._log = request_log
        if version is not None and label:
            raise ServingError("ask for a version or for a label, not for both")
        if not self.sizes or self.sizes[0] < 1:
            raise ServingError(f"sizes should be positive counts. Received: {sizes}")

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> Plan:
        """Plans a call of any signature."""
        arrays = {name: _as_array(name, value) for name, value in inputs.items()}
        signature = signature or DEFAULT_SIGNATURE
        (response,) = yield [self._request(signature, arrays)]
        return self._logged(signature, arrays, self._scores(response))

    def score_examples(self, examples: Sequence[bytes]) -> Plan:
        """Plans the scoring of serialized tf.train.Examples."""
        if not len(examples):
            raise ServingError("a request needs at least one example")
        rows = {EXAMPLES_INPUT: byte_strings(list(examples))}
        # No padding: a row costs the server its parsing, and the graph takes any number.
        return (yield from self._score_rows(DEFAULT_SIGNATURE, {}, rows, pad=False))

    def score_candidates(
        self, user: Mapping[str, Any], candidates: Mapping[str, Any], signature: str
    ) -> Plan:
        """Plans the scoring of a user's candidates."""
        if self.spec is None:
            raise ServingError("score_candidates needs the client's `spec` (feature_spec.json)")
        if signature == DEFAULT_SIGNATURE:
            examples = serialized_examples(self.spec, user, candidates)
            return (yield from self.score_examples(examples))
        if signature != CANDIDATES_SIGNATURE:
            raise ServingError(f"signature should be one of {SIGNATURES}. Received: {signature!r}")
        shared = user_arrays(self.spec, user)
        rows = candidate_arrays(self.spec, candidates)
        return (yield from self._score_rows(signature, shared, rows, pad=True))

    def failure(self, error: grpc.RpcError) -> StatusError:
        """Returns the error of a call that ended with a status."""
        code = error.code()
        hint = f" ({_HINTS[code]})" if code in _HINTS else ""
        return StatusError(
            code,
            f"scoring with {self.model_name!r} at {self.target} failed: {code.name}, deadline "
            f"{self.deadline_ms} ms: {error.details()}{hint}",
        )

    def _score_rows(
        self,
        signature: str,
        shared: Mapping[str, np.ndarray],
        rows: Mapping[str, np.ndarray],
        *,
        pad: bool,
    ) -> Plan:
        """Plans requests of at most the largest size, all answered by one version."""
        count = len(next(iter(rows.values())))
        requests, counts = [], []
        for start, stop, size in chunks(count, self.sizes):
            size = size if pad else stop - start
            part = {name: pad_rows(array[start:stop], size) for name, array in rows.items()}
            requests.append(self._request(signature, {**shared, **part}))
            counts.append(size)
        answers = yield from self._answers_of_one_version(requests)
        outputs = {name: self._joined(name, answers, counts)[:count] for name in answers[0].outputs}
        scores = Scores(outputs, answers[0].version, answers[0].model_name, signature)
        return self._logged(signature, {**shared, **rows}, scores)

    def _answers_of_one_version(
        self, requests: Requests
    ) -> Generator[Requests, Responses, list[Scores]]:
        """Plans the requests, and again those that another version answered: it was swapped."""
        answers = [self._scores(response) for response in (yield requests)]
        versions = sorted({answer.version for answer in answers}, reverse=True)
        for version in versions:
            others = [i for i, answer in enumerate(answers) if answer.version != version]
            for index in others:
                requests[index].model_spec.version.value = version
            try:
                responses = (yield [requests[index] for index in others]) if others else []
            except StatusError as error:
                # It has gone meanwhile, as in a roll-back; the version before answered some, too.
                if error.code != grpc.StatusCode.NOT_FOUND or version == versions[-1]:
                    raise
            else:
                for index, response in zip(others, responses, strict=True):
                    answers[index] = self._scores(response)
                break
        return answers

    def _joined(self, name: str, answers: Sequence[Scores], counts: Sequence[int]) -> np.ndarray:
        parts = [answer.outputs.get(name, np.empty(0)) for answer in answers]
        for part, size in zip(parts, counts, strict=True):
            if part.shape[:1] != (size,):
                raise ServingError(
                    f"answer of {self.target} is not usable: output {name!r} has shape "
                    f"{list(part.shape)} for {size} rows"
                )
        return np.concatenate(parts)

    def _request(
        self, signature: str, arrays: Mapping[str, np.ndarray]
    ) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model_name
        request.model_spec.signature_name = signature
        if self.version is not None:
            request.model_spec.version.value = self.version
        elif self.label:
            request.model_spec.version_label = self.label
        for name, array in arrays.items():
            fill_proto(request.inputs[name], array)
        return request

    def _scores(self, response: predict_pb2.PredictResponse) -> Scores:
        try:
            outputs = from_protos(response.outputs, self.max_bytes)
        except ValueError as error:
            raise ServingError(f"answer of {self.target} is not usable: {error}") from error
        spec = response.model_spec
        return Scores(outputs, spec.version.value, spec.name, spec.signature_name)

    def _logged(self, signature: str, arrays: Mapping[str, np.ndarray], scores: Scores) -> Scores:
        """Logs an answered call as its caller made it: neither padded nor split."""
        if self._log is not None and self._log.sample():
            request = self._request(signature, arrays)
            self._log.add(request, scores.outputs, scores.version)
        return scores


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        return byte_strings(value) if array.dtype.kind in "SUO" else array
    except ValueError as error:
        raise ServingError(f"input {name!r} is not a tensor: {error}") from error
