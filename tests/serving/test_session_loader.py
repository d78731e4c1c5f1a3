"""SavedModels of every make are loaded whole, whatever their graphs call functions by."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import function

from cmdcm.export.trust import function_library
from cmdcm.serving.loading import load_servable

v1 = tf.compat.v1


def save_v1(path, build) -> None:
    """Exports y = build(x) as TensorFlow 1 did."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        y = build(x)
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, [tf.saved_model.SERVING], {"serving_default": signature}
        )
        builder.save()


def function_as_op(x):
    @function.Defun(tf.float32)
    def twice(value):
        return 2.0 * value

    return twice(x) + v1.get_variable("bias", initializer=1.0)


def function_with_gradient(x):
    @function.Defun(tf.float32, tf.float32)
    def twice_gradient(value, gradient):
        return 2.0 * gradient + 0.0 * value

    @function.Defun(tf.float32, grad_func=twice_gradient)
    def twice(value):
        return 2.0 * value

    y = twice(x)
    return y + tf.gradients(y, x)[0] - 1.0


def control_flow_by_functions(x):
    v1.enable_control_flow_v2()
    try:
        doubled = tf.while_loop(lambda n, _: n < 3, lambda n, y: (n + 1, y + x), [1, 0 * x])[1]
        return tf.cond(tf.size(x) > 0, lambda: doubled + 1.0, lambda: doubled)
    finally:
        v1.disable_control_flow_v2()


@pytest.mark.parametrize(
    "build", [function_as_op, function_with_gradient, control_flow_by_functions]
)
def test_graphs_with_functions_of_tensorflow_1(tmp_path, build):
    save_v1(tmp_path / "1", build)
    servable = load_servable(tmp_path / "1", "m", 1)
    got = servable.predict("", {"x": np.array([1, 5], np.float32)})
    assert got["y"].tolist() == [3.0, 11.0]
    servable.close()


def test_functions_that_call_functions_of_tensorflow_2(tmp_path):
    module = tf.Module()
    module.bias = tf.Variable(1.0)

    @tf.function
    def twice(x):
        return 2.0 * x

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def outer(x):
        y = tf.constant(0.0) * x
        for _ in tf.range(tf.size(x)):  # a While whose body calls `twice`
            y = twice(x)
        return {"y": y + module.bias}

    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": outer})
    text = (tmp_path / "1" / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(text).meta_graphs[0].graph_def
    assert len(function_library(graph).function) > 3
    servable = load_servable(tmp_path / "1", "m", 1)
    got = servable.predict("", {"x": np.array([1, 5], np.float32)})
    assert got["y"].tolist() == [3.0, 11.0]
    servable.close()
