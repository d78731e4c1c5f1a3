"""Warm-up requests: TensorFlow Serving replays them before a version takes traffic."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from cmdcm.export.signatures import (
    CANDIDATES_SIGNATURE,
    CLASSIFY_SIGNATURE,
    EXAMPLES_INPUT,
    EXAMPLES_SIGNATURE,
    REGRESS_SIGNATURE,
    REGRESSION,
)
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import FeatureSpec

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks for them."""

MAX_LOGGED = 900
"""Logged requests that an export takes; servers replay 1000 records, its own among them."""

Arrays = dict[str, np.ndarray]
Requests = Sequence[tuple[str, Arrays]]
"""Pairs of signature and inputs."""


def requests(
    spec: FeatureSpec, serialized: Sequence[bytes], sizes: Sequence[int]
) -> list[tuple[str, Arrays]]:
    """Makes one request of serialized examples, and one of each candidate count.

    Args:
        spec: The model's features.
        serialized: Some real examples; they give the values of all requests, whose users lie
            evenly among them.
        sizes: Candidate counts.

    Returns:
        Pairs of signature and inputs.
    """
    features = _features(spec, serialized)
    users = [n * len(serialized) // len(sizes) for n in range(len(sizes))]
    return [
        (EXAMPLES_SIGNATURE, {EXAMPLES_INPUT: np.array(list(serialized), object)}),
        *(_of_user(spec, features, u, n) for u, n in zip(users, sizes, strict=True)),
    ]


def requests_of_users(
    spec: FeatureSpec, serialized: Sequence[bytes], size: int
) -> list[tuple[str, Arrays]]:
    """Makes requests of `size` candidates for the users with the least, middle and most history.

    A graph that computes the user's part once takes other ways for other lengths of it.

    Args:
        spec: The model's features.
        serialized: Some real examples; they give the values of all requests.
        size: Candidate count.
    """
    features = _features(spec, serialized)
    lengths = np.zeros(len(serialized), np.int64)
    for f in spec.user_inputs:
        if f.shape == "sequence" and f.dtype != "string":
            lengths += np.count_nonzero(features[f.name] != f.default, axis=1)
    order = np.argsort(lengths, kind="stable")
    return [_of_user(spec, features, int(order[n]), size) for n in (0, len(order) // 2, -1)]


def write_requests(path: Path, model_name: str, made: Requests) -> None:
    """Writes requests as a TFRecord of PredictionLog."""
    _write(path, [_predict_log(model_name, *request) for request in made])


def write_warmup(path: Path, model_name: str, made: Requests, logged: Requests = ()) -> None:
    """Writes an export's warm-up requests as a TFRecord of PredictionLog.

    A session prepares its graph for each set of fetched outputs at the first call that wants it.
    Therefore the last request of each signature of `made` follows once more with an output filter,
    and the first example goes to `classify` and to `regress`.

    Args:
        path: The file.
        model_name: Name of the served model.
        made: What `requests` made.
        logged: Requests of callers to write as they are, too.
    """
    logs = [_predict_log(model_name, *request) for request in (*made, *logged)]
    logs += [_predict_log(model_name, *last, REGRESSION) for last in dict(made).items()]
    example = dict(made)[EXAMPLES_SIGNATURE][EXAMPLES_INPUT][0]
    classified, regressed = (prediction_log_pb2.PredictionLog() for _ in range(2))
    for request, signature in (
        (classified.classify_log.request, CLASSIFY_SIGNATURE),
        (regressed.regress_log.request, REGRESS_SIGNATURE),
    ):
        request.model_spec.name = model_name
        request.model_spec.signature_name = signature
        request.input.example_list.examples.add().ParseFromString(example)
    _write(path, [*logs, classified, regressed])


def _features(spec: FeatureSpec, serialized: Sequence[bytes]) -> Arrays:
    parsed = parse_examples(tf.constant(list(serialized)), spec.inputs)
    return {name: tensor.numpy() for name, tensor in parsed.items()}


def _of_user(spec: FeatureSpec, features: Arrays, user: int, size: int) -> tuple[str, Arrays]:
    rows = np.arange(size) % len(next(iter(features.values())))
    inputs = {f.name: features[f.name][[user]] for f in spec.user_inputs}
    inputs |= {f.name: features[f.name][rows] for f in spec.candidate_inputs}
    return CANDIDATES_SIGNATURE, inputs


def _predict_log(
    model_name: str, signature: str, inputs: Mapping[str, np.ndarray], *outputs: str
) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log


def _write(path: Path, logs: Sequence[prediction_log_pb2.PredictionLog]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))
