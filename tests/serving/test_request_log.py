"""The request log: what is written can be read, and scoring never suffers from it."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.features.tfrecord import read_records
from cmdcm.serving import request_log
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.request_log import RequestLog
from cmdcm.serving.status import StatusError
from cmdcm.serving.warmup import warm_up
from cmdcm.tests.serving import models
from cmdcm.tests.serving.clients import Awaited
from cmdcm.tests.serving.stubs import WAIT, wait_for


def request(number: int = 0) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = "tiny"
    made.inputs["x"].CopyFrom(tf.make_tensor_proto([number], tf.int64))
    return made


def read(directory: Path) -> list[prediction_log_pb2.PredictionLog]:
    return [
        prediction_log_pb2.PredictionLog.FromString(record)
        for path in sorted(directory.iterdir())
        for record in read_records(path)
    ]


def numbers(directory: Path) -> list[int]:
    return [int(tf.make_ndarray(log.predict_log.request.inputs["x"])[0]) for log in read(directory)]


@pytest.mark.parametrize("kind", [ScoringClient, Awaited], ids=["sync", "asyncio"])
@pytest.mark.parametrize("signature", ["score_candidates", "serving_default"])
def test_logged_calls_are_as_their_callers_made_them(server, tmp_path, kind, signature):
    user, counts = models.user_values(), (3, 7)
    with (
        RequestLog(tmp_path / "log", rate=1.0) as log,
        kind(
            server.target,
            "tiny",
            models.SPEC,
            deadline_ms=20_000,
            sizes=(1, 5),
            request_log=log,
        ) as client,
    ):
        answers = [
            client.score_candidates(user, models.candidate_arrays(n), signature) for n in counts
        ]
    assert (log.logged, log.dropped) == (2, 0)
    for logged, scores, count in zip(read(tmp_path / "log"), answers, counts, strict=True):
        entry = logged.predict_log
        assert logged.log_metadata.model_spec.name == "tiny"
        assert logged.log_metadata.sampling_config.sampling_rate == 1
        assert entry.request.model_spec.signature_name == signature
        assert entry.response.model_spec.version.value == 2
        first = entry.request.inputs["examples" if signature == "serving_default" else "item_id"]
        assert tf.make_ndarray(first).shape == (count,)
        np.testing.assert_array_equal(
            tf.make_ndarray(entry.response.outputs["p_cart"]), scores["p_cart"]
        )


def test_a_log_serves_as_warm_up_requests(server, exports, tmp_path):
    from cmdcm.serving.loading import load_servable

    with (
        RequestLog(tmp_path / "log", rate=1.0) as log,
        ScoringClient(server.target, "tiny", models.SPEC, request_log=log) as client,
    ):
        client.score_candidates(models.user_values(), models.candidate_arrays(4))
    (file,) = (tmp_path / "log").iterdir()
    version = tmp_path / "version"
    (version / "assets.extra").mkdir(parents=True)
    file.rename(version / "assets.extra" / "tf_serving_warmup_requests")
    servable = load_servable(exports / "tiny" / "1", "tiny", 1)
    try:
        warm_up(servable, version)
    finally:
        servable.close()


def test_failed_calls_are_not_logged(server, tmp_path):
    with (
        RequestLog(tmp_path / "log", rate=1.0) as log,
        ScoringClient(server.target, "tiny", request_log=log) as client,
        pytest.raises(StatusError, match="INVALID_ARGUMENT"),
    ):
        client.predict("serving_default", {"examples": [b"\xff"]})
    assert (log.logged, log.dropped) == (0, 0)
    assert not list((tmp_path / "log").iterdir())


def test_the_sample_depends_on_the_seed_alone(tmp_path):
    def sample(seed, rate=0.3):
        with RequestLog(tmp_path / "log", rate, seed=seed) as log:
            return [log.sample() for _ in range(2000)]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    # Five standard deviations of a binomial share.
    assert abs(np.mean(sample(3)) - 0.3) < 5 * (0.3 * 0.7 / 2000) ** 0.5
    assert not any(sample(1, rate=0.0))
    assert all(sample(1, rate=1.0))


def test_files_end_by_size(tmp_path):
    size = request().ByteSize()
    with RequestLog(tmp_path / "log", 1.0, max_bytes=3 * size) as log:
        for number in range(10):
            log.add(request(number), {}, 1)
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert len(names) > 3
    assert all(name.startswith("requests-") and name.endswith(".tfrecord") for name in names)
    assert numbers(tmp_path / "log") == list(range(10))


def test_files_end_by_time_without_another_request(tmp_path):
    with RequestLog(tmp_path / "log", 1.0, max_seconds=0.05) as log:
        log.add(request(1), {}, 1)
        wait_for(lambda: log.logged == 1)
        assert numbers(tmp_path / "log") == [1]
        log.add(request(2), {}, 1)
        wait_for(lambda: log.logged == 2)
    assert numbers(tmp_path / "log") == [1, 2]


def test_a_file_is_hidden_until_it_is_complete(tmp_path):
    directory = tmp_path / "log"
    with RequestLog(directory, 1.0) as log:
        log.add(request(), {}, 1)
        wait_for(lambda: list(directory.iterdir()))
        assert all(path.name.startswith(".") for path in directory.iterdir())
    assert numbers(directory) == [0]


def test_no_call_waits_for_a_slow_disk(tmp_path, monkeypatch):
    release, writing = threading.Event(), threading.Event()

    class Slow(tf.io.TFRecordWriter):
        def write(self, record):
            writing.set()
            assert release.wait(WAIT)
            super().write(record)

    monkeypatch.setattr(request_log.tf.io, "TFRecordWriter", Slow)
    with RequestLog(tmp_path / "log", 1.0, max_queued=2) as log:
        log.add(request(0), {}, 1)
        assert writing.wait(WAIT)  # the first is being written, two are queued
        for number in range(1, 6):
            log.add(request(number), {}, 1)
        assert log.dropped == 3
        release.set()
    assert (log.logged, log.dropped) == (3, 3)
    assert numbers(tmp_path / "log") == [0, 1, 2]


def test_a_disk_that_fails_loses_records_and_nothing_else(tmp_path, monkeypatch):
    fails = threading.Event()
    fails.set()
    publish = os.replace

    def replace(self, target):
        if fails.is_set():
            raise OSError(28, "No space left on device")
        publish(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with RequestLog(tmp_path / "log", 1.0, max_bytes=1) as log:
        log.add(request(1), {}, 1)
        wait_for(lambda: log.dropped == 1)
        fails.clear()
        log.add(request(2), {}, 1)
    assert (log.logged, log.dropped) == (1, 1)
    assert numbers(tmp_path / "log") == [2]


def test_settings_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match=r"from 0 to 1\. Received: 1\.5"):
        RequestLog(tmp_path, 1.5)
    with pytest.raises(ConfigError, match="should be positive"):
        RequestLog(tmp_path, 0.5, max_queued=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        RequestLog(tmp_path / "file", 0.5)
