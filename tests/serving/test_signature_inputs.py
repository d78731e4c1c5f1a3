"""What may be fed to a signature."""

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from tensorflow.core.protobuf import meta_graph_pb2

from cmdcm.serving.signature_inputs import SignatureInputs
from cmdcm.serving.status import StatusError

FREE = -1
sizes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def signature(**shapes) -> meta_graph_pb2.SignatureDef:
    """A signature of float32 inputs of these shapes; None for any rank."""
    made = meta_graph_pb2.SignatureDef()
    for name, shape in shapes.items():
        made.inputs[name].name = f"{name}:0"
        made.inputs[name].dtype = tf.float32.as_datatype_enum
        made.inputs[name].tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return made


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_arrays_are_fed_in_the_order_of_the_names():
    inputs = SignatureInputs(signature(b=[None], a=[1], c=None))
    a, b, c = floats(1), floats(4), floats(2, 2)
    fed = inputs.fed({"c": c, "a": a, "b": b})
    assert inputs.tensors == ["a:0", "b:0", "c:0"]
    assert all(got is want for got, want in zip(fed, (a, b, c), strict=True))


def test_a_default_stands_in_for_an_input():
    made = signature(x=[None], y=[None])
    made.defaults["y"].CopyFrom(tf.make_tensor_proto(np.array([7], np.float32)))
    inputs = SignatureInputs(made)
    assert [array.tolist() for array in inputs.fed({"x": floats(1)})] == [[0], [7]]
    assert [array.tolist() for array in inputs.fed({"x": floats(1), "y": floats(1)})] == [[0], [0]]
    with pytest.raises(StatusError, match=r"1!=2. Sent extra: \{\}. Missing .*\{x\}"):
        inputs.fed({"y": floats(1)})


@settings(deadline=None)
@given(st.lists(st.sampled_from([FREE, 0, 1, 2, 3]), max_size=3), st.lists(sizes, max_size=6))
def test_a_shape_fits_whatever_was_fed_before(expected, shapes):
    inputs = SignatureInputs(signature(x=[None if size == FREE else size for size in expected]))
    for shape in [*shapes, *shapes]:
        fits = len(shape) == len(expected) and all(
            wanted in (FREE, size) for wanted, size in zip(expected, shape, strict=True)
        )
        if fits:
            assert inputs.fed({"x": floats(*shape)})[0].shape == shape
        else:
            with pytest.raises(StatusError, match="'x' should have shape") as caught:
                inputs.fed({"x": floats(*shape)})
            assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_type_is_refused_after_another_of_its_shape_was_fed():
    inputs = SignatureInputs(signature(x=[None]))
    inputs.fed({"x": floats(3)})
    for wrong in (np.float64, np.int64, ">f2", np.object_):
        with pytest.raises(StatusError, match=r"'x' should be float32\. Received: "):
            inputs.fed({"x": np.zeros(3, wrong)})
