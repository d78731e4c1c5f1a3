"""Warm-up requests: TensorFlow Serving replays them before a version takes traffic."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from cmdcm.export.signatures import CANDIDATES_SIGNATURE, EXAMPLES_INPUT, EXAMPLES_SIGNATURE
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import FeatureSpec

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks for them."""

Arrays = dict[str, np.ndarray]


def requests(
    spec: FeatureSpec, serialized: Sequence[bytes], sizes: Sequence[int]
) -> list[tuple[str, Arrays]]:
    """Makes one request of serialized examples, and one of each candidate count.

    Args:
        spec: The model's features.
        serialized: Some real examples; they give the values of all requests.
        sizes: Candidate counts.

    Returns:
        Pairs of signature and inputs.
    """
    features = {
        name: tensor.numpy()
        for name, tensor in parse_examples(tf.constant(list(serialized)), spec.inputs).items()
    }
    made: list[tuple[str, Arrays]] = [
        (EXAMPLES_SIGNATURE, {EXAMPLES_INPUT: np.array(list(serialized), object)})
    ]
    for size in sizes:
        rows = np.arange(size) % len(serialized)
        inputs = {f.name: features[f.name][:1] for f in spec.user_inputs}
        inputs |= {f.name: features[f.name][rows] for f in spec.candidate_inputs}
        made.append((CANDIDATES_SIGNATURE, inputs))
    return made


def write_warmup(
    path: Path, model_name: str, made: Sequence[tuple[str, Mapping[str, np.ndarray]]]
) -> None:
    """Writes requests as a TFRecord of PredictionLog."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in made:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString(deterministic=True))
