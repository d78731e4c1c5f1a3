"""A sample of answered requests, logged as TensorFlow Serving's request logging does.

The files are TFRecords of PredictionLog, with request and response. `cmdcm validate --requests`
checks them for skew against the training data, `cmdcm loadtest --requests` draws its traffic from
them, and as warm-up requests they carry real values.

Logging never delays a scoring call and never fails one: what does not fit the queue, or cannot be
written, is dropped and counted.
"""

import datetime
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from cmdcm.core.closing import Closing
from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.core.files import output_errors, staged_file
from cmdcm.serving.tensors import fill_proto


class RequestLog(Closing):
    """Writes a sample of requests to files that appear when they are complete.

    A file is `NAME-TIME-PROCESS-NUMBER.tfrecord`; until it is complete it is hidden, and a process
    that is killed loses it. Close the log, or use it in a `with` block, to keep the last one.

    Args:
        directory: Where the files go; made if missing.
        rate: Share of the answered calls to log, from 0 to 1.
        seed: Seed of the sample: whether call number i is logged depends on the seed and i alone.
            None for another sample in every process.
        name: First part of the files' names.
        max_bytes: Size of the records after which a file is complete.
        max_seconds: Time after its first record at which a file is complete.
        max_queued: Records that may wait to be written; any more are dropped.

    Attributes:
        logged: Records in complete files.
        dropped: Records that did not fit the queue or could not be written.

    Raises:
        ConfigError: A rate or a bound that cannot be used.
        OutputError: The directory cannot be made.

    Example:
        >>> with RequestLog(Path("out/requests"), rate=0.01) as log:  # doctest: +SKIP
        ...     client = ScoringClient(target, "cmdcm", spec, request_log=log)
    """

    def __init__(
        self,
        directory: Path,
        rate: float,
        *,
        seed: int | None = None,
        name: str = "requests",
        max_bytes: int = 64 << 20,
        max_seconds: float = 600.0,
        max_queued: int = 100,
    ):
        if not 0 <= rate <= 1:
            raise ConfigError(f"rate of the request log should be from 0 to 1. Received: {rate}")
        if min(max_bytes, max_seconds, max_queued) <= 0:
            raise ConfigError("max_bytes, max_seconds and max_queued should be positive")
        self.logged = 0
        self.dropped = 0
        self._rate = rate
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()  # of the random numbers and of the counts
        self._queue: queue.Queue[prediction_log_pb2.PredictionLog | None] = queue.Queue(max_queued)
        self._directory = directory
        self._name = name
        self._number = 0
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._write_files, name="request-log", daemon=True)
        self._thread.start()

    def sample(self) -> bool:
        """Decides whether to log the next call."""
        if not self._rate:
            return False
        with self._lock:
            return bool(self._random.random() < self._rate)

    def add(
        self,
        request: predict_pb2.PredictRequest,
        outputs: Mapping[str, np.ndarray],
        version: int,
    ) -> None:
        """Takes a call that was answered; returns at once.

        Args:
            request: What was asked.
            outputs: What was answered.
            version: Version of the model that answered.
        """
        log = prediction_log_pb2.PredictionLog()
        log.log_metadata.model_spec.CopyFrom(request.model_spec)
        log.log_metadata.sampling_config.sampling_rate = self._rate
        log.predict_log.request.CopyFrom(request)
        response = log.predict_log.response
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = request.model_spec.signature_name
        response.model_spec.version.value = version
        for name, array in outputs.items():
            fill_proto(response.outputs[name], array)
        try:
            self._queue.put_nowait(log)
        except queue.Full:
            self._count(dropped=1)

    def close(self) -> None:
        """Writes what is queued and completes the last file."""
        self._queue.put(None)
        self._thread.join()

    def _write_files(self) -> None:
        closed = False
        while not closed and (log := self._queue.get()) is not None:
            closed = self._write_file(log)

    def _write_file(self, log: prediction_log_pb2.PredictionLog | None) -> bool:
        """Writes a file that begins with `log`; returns whether the log was closed meanwhile."""
        ends = time.monotonic() + self._max_seconds
        taken, size = 0, 0
        try:
            with (
                staged_file(self._next_path()) as staging,
                tf.io.TFRecordWriter(str(staging)) as writer,
            ):
                while log is not None:
                    taken += 1
                    record = log.SerializeToString()
                    writer.write(record)
                    size += len(record)
                    left = ends - time.monotonic()
                    if size >= self._max_bytes or left <= 0:
                        break
                    try:
                        log = self._queue.get(timeout=left)
                    except queue.Empty:
                        break
        except (OSError, OutputError, tf.errors.OpError) as error:
            logging.log_every_n_seconds(logging.WARNING, "request log: %s", 60, error)
            self._count(dropped=taken)
            return log is None
        self._count(logged=taken)
        return log is None

    def _next_path(self) -> Path:
        self._number += 1
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        return self._directory / f"{self._name}-{now}-{os.getpid()}-{self._number:06d}.tfrecord"

    def _count(self, logged: int = 0, dropped: int = 0) -> None:
        with self._lock:
            self.logged += logged
            self.dropped += dropped
