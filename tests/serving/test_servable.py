"""Loading a SavedModel, its warm-up and its manifest; predicting with it."""

import json
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.files import MANIFEST, write_manifest
from cmdcm.serving.servable import MAX_WARMUP_RECORDS, WARMUP_FILE, Servable
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def tiny(exports):
    return Servable.load(exports / "tiny" / "2", "tiny", 2)


@pytest.fixture(scope="module")
def v1(exports):
    return Servable.load(exports / "v1" / "1", "v1", 1)


def request(count: int = 3) -> dict[str, np.ndarray]:
    return {**models.user_arrays(), **models.candidate_arrays(count)}


def refused(servable, signature, inputs, outputs=()) -> StatusError:
    with pytest.raises(StatusError) as caught:
        servable.predict(signature, inputs, outputs)
    return caught.value


def load_error(path) -> StatusError:
    with pytest.raises(StatusError) as caught:
        Servable.load(path, "m", 5)
    assert "version 5 of 'm'" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("count", [1, 2, 50])
def test_scores_equal_the_reference(tiny, count):
    got = tiny.predict("score_candidates", request(count))
    want = models.expected(models.user_arrays(), models.candidate_arrays(count), 2)
    assert set(got) == set(want)
    for name, values in want.items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], values, atol=1e-6)


def test_output_filter(tiny):
    got = tiny.predict("score_candidates", request(), ["p_cart", "cart_effect"])
    assert set(got) == {"p_cart", "cart_effect"}
    np.testing.assert_array_equal(got["cart_effect"], [2, 2, 2])


def test_tensorflow_1_model_with_table_and_asset(v1):
    np.testing.assert_array_equal(
        v1.predict("", {"x": np.array([[1, 1], [0, 2]], np.float32)})["y"], [[5], [6]]
    )
    words = np.array([b"green", b"blue"], object)
    assert v1.predict("lookup", {"word": words}, ["index"])["index"].tolist() == [1, -1]


def test_unknown_signature(tiny):
    error = refused(tiny, "nothing", request())
    assert error.code == PRECONDITION
    assert 'Serving signature key "nothing" not found' in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": None}, r"Sent extra: \{\}. Missing but required: \{price\}"),
        (
            {"colour": np.zeros(3, np.float32)},
            r"Sent extra: \{colour\}. Missing .*\{\}",
        ),
        ({"price": np.zeros(3, np.int64)}, "'price' should be float32. Received: int64"),
        ({"price": np.zeros(3, np.float64)}, "'price' should be float32"),
        ({"price": np.array([b"1"] * 3, object)}, "'price' should be float32.* Received: string"),
        ({"brand": np.zeros(3, np.float32)}, "'brand' should be string"),
        ({"price": np.zeros((3, 1), np.float32)}, r"\[\?\]. Received: \[3,1\]"),
        ({"price": np.float32(1)}, r"\[\?\]. Received: \[\]"),
        ({"affinity": np.zeros((3, 3), np.float32)}, r"\[\?,2\]. Received: \[3,3\]"),
        ({"user_id": np.zeros(3, np.int64)}, r"\[1\]. Received: \[3\]"),
    ],
)
def test_inputs_that_do_not_fit_the_signature(tiny, change, message):
    inputs = {k: v for k, v in {**request(), **change}.items() if v is not None}
    with pytest.raises(StatusError, match=message) as caught:
        tiny.predict("score_candidates", inputs)
    assert caught.value.code == INVALID


def test_output_filters_that_do_not_fit(tiny):
    unknown = refused(tiny, "score_candidates", request(), ["p_other"])
    assert unknown.code == INVALID
    assert "output tensor alias not found in signature: p_other" in str(unknown)
    twice = refused(tiny, "score_candidates", request(), ["p_cart", "p_cart"])
    assert twice.code == INVALID
    assert "duplicate output tensor alias: p_cart" in str(twice)


def test_errors_of_the_graph_keep_their_code(tiny):
    uneven = {**request(3), "price": np.zeros(4, np.float32)}
    assert refused(tiny, "score_candidates", uneven).code == INVALID
    broken = {"examples": np.array([b"\xff\xff not an example"], object)}
    assert refused(tiny, "serving_default", broken).code == INVALID


def test_default_inputs_of_a_signature(exports, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports / "v1" / "1", path)
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    default = model.meta_graphs[0].signature_def["serving_default"].defaults["x"]
    default.CopyFrom(tf.make_tensor_proto(np.ones((1, 2), np.float32)))
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    servable = Servable.load(path, "v1", 1)
    assert servable.predict("serving_default", {})["y"].tolist() == [[5]]


def test_a_failing_warmup_record_fails_the_load(exports, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports / "v1" / "1", path)
    good = ("serving_default", {"x": np.ones((1, 2), np.float32)})
    models.write_warmup(path, [good, good])
    Servable.load(path, "v1", 1).close()
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
    warmup = path / WARMUP_FILE
    warmup.write_bytes(b"this is no TFRecord at all")
    assert load_error(path).code == grpc.StatusCode.DATA_LOSS
    with tf.io.TFRecordWriter(str(warmup)) as writer:
        writer.write(b"\xff\xff\xff")
    assert "Failed to parse warmup record 1" in str(load_error(path))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0, 1.0]]))
    with tf.io.TFRecordWriter(str(warmup)) as writer:
        for _ in range(MAX_WARMUP_RECORDS + 1):
            writer.write(log.SerializeToString())
    assert "exceeds the maximum (1000)" in str(load_error(path))


def test_other_kinds_of_warmup_are_passed_over(exports, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports / "v1" / "1", path)
    (path / "assets.extra").mkdir()
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.name = "v1"
    with tf.io.TFRecordWriter(str(path / WARMUP_FILE)) as writer:
        writer.write(log.SerializeToString())
    Servable.load(path, "v1", 1).close()


def test_a_tampered_file_is_refused(base):
    path = base / "1"
    data = next(path.glob("variables/variables.data*"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    error = load_error(path)
    assert error.code == grpc.StatusCode.DATA_LOSS
    assert f"{data.relative_to(path)}: SHA-256 differs" in str(error)


def test_an_added_file_is_refused(base):
    (base / "1" / "extra.so").write_bytes(b"")
    assert "extra.so: not in the manifest" in str(load_error(base / "1"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"x": 1}}'])
def test_a_manifest_that_is_none_is_refused(base, content):
    (base / "1" / MANIFEST).write_text(content)
    assert "manifest" in str(load_error(base / "1"))


def test_every_file_of_ours_is_in_the_manifest(base):
    listed = json.loads((base / "1" / MANIFEST).read_text())["files"]
    assert WARMUP_FILE.as_posix() in listed


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"not a model"])
def test_a_broken_saved_model_is_refused(base, content):
    path = base / "1"
    (path / "saved_model.pb").write_bytes(content)
    (path / MANIFEST).unlink()
    write_manifest(path, {"kind": "export"})
    load_error(path)


def test_truncated_variables_are_refused(base):
    path = base / "1"
    (path / MANIFEST).unlink()
    data = next(path.glob("variables/variables.data*"))
    data.write_bytes(data.read_bytes()[:-2])
    load_error(path)
