"""Predicting with a loaded SavedModel."""

import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from cmdcm.serving.loading import load_servable
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def tiny(exports):
    return load_servable(exports / "tiny" / "2", "tiny", 2)


@pytest.fixture(scope="module")
def v1(exports):
    return load_servable(exports / "v1" / "1", "v1", 1)


def request(count: int = 3) -> dict[str, np.ndarray]:
    return {**models.user_arrays(), **models.candidate_arrays(count)}


def refused(servable, signature, inputs, outputs=()) -> StatusError:
    with pytest.raises(StatusError) as caught:
        servable.predict(signature, inputs, outputs)
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
    servable = load_servable(path, "v1", 1)
    assert servable.predict("serving_default", {})["y"].tolist() == [[5]]


def test_single_values_are_arrays_too(v1):
    got = v1.predict("lookup", {"word": np.array(b"green", object)})
    assert (got["index"].shape, got["index"].dtype, got["index"].tolist()) == ((), np.int64, 1)
    assert (got["word_bytes"].shape, got["word_bytes"].tolist()) == ((), b"green")


def test_a_runner_stands_between_predict_and_the_graph(exports):
    calls = []

    def make_runner(servable):
        def run(signature_name, fed, outputs):
            calls.append((signature_name, [len(array) for array in fed], outputs))
            return servable.run(signature_name, [2 * array for array in fed], outputs)

        return run

    servable = load_servable(exports / "v1" / "1", "v1", 1, make_runner)
    got = servable.predict("", {"x": np.ones((3, 2), np.float32)})
    assert got["y"].tolist() == [[10.0]] * 3
    assert calls == [("serving_default", [3], ("y",))]
    servable.close()


def test_a_kernel_without_columns_ends_no_process(tmp_path):
    """With its fused operations TensorFlow hands oneDNN a matmul that ends the process."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 16])
        rows = tf.compat.v1.placeholder(tf.float32, [None, None])
        kernel = tf.reshape(tf.transpose(rows)[:, :, tf.newaxis] * tf.ones([1, 16]), [16, -1])
        bias = tf.reshape(tf.zeros([tf.shape(rows)[0], 16]), [-1])
        y = tf.nn.relu(tf.nn.bias_add(x @ kernel, bias))
        tf.compat.v1.saved_model.simple_save(
            session, str(tmp_path / "1"), {"x": x, "rows": rows}, {"y": y}
        )
    servable = load_servable(tmp_path / "1", "m", 1)
    for count in (2, 0):
        inputs = {"x": np.ones((5, 16), np.float32), "rows": np.ones((count, 16), np.float32)}
        assert servable.predict("", inputs)["y"].shape == (5, 16 * count)
    servable.close()
