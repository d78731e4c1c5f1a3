"""Logged predictions for the clicks of a directory of examples, with scores that a test chooses."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.features.dataset import ExampleSet
from cmdcm.features.rows import parse_rows
from cmdcm.features.tfrecord import read_records

Scores = Callable[[pl.DataFrame], Mapping[str, np.ndarray]]
ROWS = 50


def predictions(
    serialized: list[bytes],
    outputs: Mapping[str, np.ndarray],
    version: int = 1,
    rate: float = 1.0,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> prediction_log_pb2.PredictionLog:
    """A logged call, of serialized examples or of tensors."""
    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.sampling_config.sampling_rate = rate
    given = inputs or {"examples": np.array(serialized, object)}
    for name, value in given.items():
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log.predict_log.response.model_spec.version.value = version
    for name, value in outputs.items():
        log.predict_log.response.outputs[name].CopyFrom(
            tf.make_tensor_proto(np.asarray(value, np.float32))
        )
    return log


def records(data: ExampleSet, part: str) -> tuple[list[bytes], pl.DataFrame]:
    """The serialized examples of a part of the split, and their columns."""
    serialized = [record for file in data.files(part) for record in read_records(file)]
    names = ("user_id", "item_id", "click_time_ms", "direct_known_ms", "delayed_known_ms")
    labels = ("direct", "cart", "open_cart", "delayed", "conversion")
    table = parse_rows(serialized, [data.spec[name] for name in (*names, *labels)])
    return serialized, pl.DataFrame({name: table[name].to_numpy() for name in table.column_names})


def logged(
    data: ExampleSet, part: str, scores: Scores, versions: tuple[int, ...] = (1,)
) -> Iterator[prediction_log_pb2.PredictionLog]:
    """A call for every few examples of a part; the versions answer in turn."""
    serialized, frame = records(data, part)
    outputs = scores(frame)
    for number, first in enumerate(range(0, len(serialized), ROWS)):
        rows = slice(first, first + ROWS)
        yield predictions(
            serialized[rows],
            {name: values[rows] for name, values in outputs.items()},
            versions[number % len(versions)],
        )


def write(path: Path, logs: Iterator[prediction_log_pb2.PredictionLog]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    return path


def rates(frame: pl.DataFrame, factor: float = 1.0) -> dict[str, np.ndarray]:
    """Each label's own rate as the score of every row, times a factor."""
    return {
        f"p_{label}": np.full(len(frame), factor * float(np.mean(frame[label].to_numpy())))
        for label in ("direct", "cart", "delayed", "conversion")
    }
