"""A SavedModel's graph made small: fewer nodes, the same signatures and values."""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from cmdcm.export.shrink import shrink

V1 = tf.compat.v1


def save(directory):
    """Writes a model that computes 2 * 3 * x twice; returns its file."""
    with tf.Graph().as_default(), V1.Session() as session:
        x = V1.placeholder(tf.float32, [None], "x")
        weight = V1.get_variable("w", initializer=[5.0], use_resource=True)
        parts = [tf.constant(2.0) * tf.constant(3.0) * x for _ in range(2)]
        V1.global_variables_initializer().run()
        V1.saved_model.simple_save(
            session, str(directory), {"x": x}, {"y": parts[0] * parts[1] + weight}
        )
    return directory / "saved_model.pb"


def read(file):
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    return model.meta_graphs[0]


def test_a_smaller_graph_restores_its_variables_and_gives_the_same(tmp_path):
    file = save(tmp_path / "model")
    before = read(file)
    shrink(file)
    after = read(file)
    assert after.signature_def == before.signature_def
    assert after.saver_def == before.saver_def
    assert len(after.graph_def.node) < len(before.graph_def.node)
    products = [node for node in after.graph_def.node if node.op == "Mul"]
    assert len(products) <= 2
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    y = served(x=tf.constant([1.0, -2.0]))["y"]
    np.testing.assert_allclose(y, [41.0, 149.0])
