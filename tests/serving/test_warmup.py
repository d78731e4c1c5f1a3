"""Warm-up requests: every kind is run, and one that fails keeps its version from serving."""

import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.serving import warmup
from cmdcm.serving.inference import CLASSIFY_METHOD, REGRESS_METHOD
from cmdcm.serving.loading import load_servable
from cmdcm.serving.servable import Servable
from cmdcm.serving.status import StatusError
from cmdcm.serving.warmup import MAX_WARMUP_RECORDS, WARMUP_FILE
from cmdcm.tests.serving import models

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def load_error(path) -> StatusError:
    with pytest.raises(StatusError) as caught:
        load_servable(path, "m", 5)
    assert "version 5 of 'm'" in str(caught.value)
    return caught.value


def test_a_failing_warmup_record_fails_the_load(exports, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports / "v1" / "1", path)
    good = ("serving_default", {"x": np.ones((1, 2), np.float32)})
    models.write_warmup(path, [good, good])
    load_servable(path, "v1", 1).close()
    models.write_warmup(path, [good, ("serving_default", {"x": np.ones(2, np.float32)})])
    error = load_error(path)
    assert error.code == INVALID
    assert "warm-up record 2: input 'x' should have shape [?,2]" in str(error)
    models.write_warmup(path, [("other", {})])
    assert load_error(path).code == PRECONDITION


def test_warmup_files_that_are_not_usable(exports, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports / "v1" / "1", path)
    (path / "assets.extra").mkdir()
    file = path / WARMUP_FILE
    file.write_bytes(b"this is no TFRecord at all")
    assert load_error(path).code == grpc.StatusCode.DATA_LOSS
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(b"\xff\xff\xff")
    assert "Failed to parse warmup record 1" in str(load_error(path))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0, 1.0]]))
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(MAX_WARMUP_RECORDS + 1):
            writer.write(log.SerializeToString())
    assert "exceeds the maximum (1000)" in str(load_error(path))


def examples_log(kind: str, signature: str) -> prediction_log_pb2.PredictionLog:
    """A record of the given kind with one example, as `write_examples_model` wants it."""
    log = prediction_log_pb2.PredictionLog()
    request = getattr(log, kind).request
    if kind == "multi_inference_log":
        task = request.tasks.add(method_name=CLASSIFY_METHOD)
        task.model_spec.signature_name = signature
        task = request.tasks.add(method_name=REGRESS_METHOD)
        task.model_spec.signature_name = "regress"
    else:
        request.model_spec.signature_name = signature
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1.5)
    return log


def write_logs(path, *logs) -> None:
    (path / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


@pytest.fixture
def examples_path(exports, tmp_path):
    shutil.copytree(exports / "examples" / "1", tmp_path / "1")
    return tmp_path / "1"


def test_each_kind_of_record_is_run(examples_path, monkeypatch):
    ran = []
    run_graph = Servable.run

    def run(servable, signature_name, fed, outputs):
        ran.append((signature_name, len(fed[0])))
        return run_graph(servable, signature_name, fed, outputs)

    monkeypatch.setattr(Servable, "run", run)
    write_logs(
        examples_path,
        examples_log("classify_log", "labels_only"),
        examples_log("regress_log", "regress_column"),
        examples_log("multi_inference_log", "classify"),
        prediction_log_pb2.PredictionLog(),
    )
    load_servable(examples_path, "m", 1).close()
    assert ran == [("labels_only", 1), ("regress_column", 1), ("classify", 1), ("regress", 1)]


@pytest.mark.parametrize(
    "log",
    [
        examples_log("classify_log", "regress"),
        examples_log("regress_log", "classify"),
        examples_log("multi_inference_log", "regress"),
    ],
)
def test_a_failing_record_of_any_kind_fails_the_load(examples_path, log):
    write_logs(examples_path, examples_log("classify_log", "classify"), log)
    error = load_error(examples_path)
    assert error.code == INVALID
    assert "warm-up record 2: " in str(error)


@pytest.mark.parametrize("kind", ["session_run_log", "predict_streamed_log"])
def test_kinds_that_are_not_inference_are_refused(examples_path, kind):
    log = prediction_log_pb2.PredictionLog()
    getattr(log, kind).SetInParent()
    write_logs(examples_path, log)
    error = load_error(examples_path)
    assert error.code == grpc.StatusCode.UNIMPLEMENTED
    assert f"Unsupported log_type for warmup: {kind}" in str(error)


def test_a_record_may_not_claim_the_memory_of_the_server(examples_path, monkeypatch):
    monkeypatch.setattr(warmup, "_MAX_WARMUP_BYTES", 10)
    write_logs(examples_path, examples_log("classify_log", "classify"))
    assert "exceed the limit of 10 bytes" in str(load_error(examples_path))


def test_warm_up_that_is_not_wanted(exports, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports / "v1" / "1", path)
    models.write_warmup(path, [("no_such_signature", {})])
    with pytest.raises(StatusError, match="warm-up record 1"):
        load_servable(path, "v1", 1)
    load_servable(path, "v1", 1, warm=False).close()
