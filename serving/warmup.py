"""Warm-up: the requests that an export brings along are run before its version serves.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of PredictionLog, 1000 at most, as
TensorFlow Serving's `saved_model_warmup.cc` reads it. A record that fails, fails the load.
"""

from pathlib import Path

import grpc
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.serving.inference import classify, multi_inference, predict, regress
from cmdcm.serving.servable import Servable
from cmdcm.serving.status import StatusError, invalid_argument

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_WARMUP_RECORDS = 1000

# A model file is trusted as far as its graph is; this only bounds what a warm-up record may claim.
_MAX_WARMUP_BYTES = 1 << 30


def warm_up(servable: Servable, path: Path) -> None:
    """Runs the warm-up requests of the version directory `path`, if it has any.

    Raises:
        StatusError: INVALID_ARGUMENT for too many records or one that is no PredictionLog, else the
            code of the request that failed.
        tf.errors.DataLossError: The file is not a TFRecord file.
    """
    file = path / WARMUP_FILE
    if not file.exists():
        return
    number = 0
    for number, record in enumerate(tf.data.TFRecordDataset(str(file)), start=1):
        if number > MAX_WARMUP_RECORDS:
            raise invalid_argument(
                f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {file}"
            )
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        except DecodeError as error:
            raise invalid_argument(f"Failed to parse warmup record {number}") from error
        try:
            _replay(servable, log)
        except StatusError as error:
            raise StatusError(error.code, f"warm-up record {number}: {error}") from error
    logging.info("%r version %d: %d warm-up requests", servable.name, servable.version, number)


def _replay(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    match log.WhichOneof("log_type"):
        case "predict_log":
            predict(servable, log.predict_log.request, _MAX_WARMUP_BYTES)
        case "classify_log":
            classify(servable, log.classify_log.request, _MAX_WARMUP_BYTES)
        case "regress_log":
            regress(servable, log.regress_log.request, _MAX_WARMUP_BYTES)
        case "multi_inference_log":
            multi_inference(servable, log.multi_inference_log.request, _MAX_WARMUP_BYTES)
        case None:
            pass  # TensorFlow Serving passes over an empty record too
        case kind:
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}"
            )
