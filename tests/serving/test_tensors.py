"""TensorProto <-> NumPy."""

from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from tensorflow.core.framework.tensor_pb2 import TensorProto

from cmdcm.serving.tensors import byte_strings, data_type, fill_proto, from_proto, from_protos

MB = 1 << 20
NUMBERS: list[Any] = [np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64]
NUMBERS += [np.uint8, np.uint16, np.uint32, np.uint64, np.bool_, np.complex64]

arrays = st.sampled_from(NUMBERS).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
string_arrays = hnp.arrays(
    object, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0), elements=st.binary(max_size=5)
)


def filled(array, *, typed: bool = False) -> TensorProto:
    proto = TensorProto()
    fill_proto(proto, array, typed=typed)
    return proto


def proto_of(shape, **values) -> TensorProto:
    proto = TensorProto(**values)
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    return proto


@settings(max_examples=100, deadline=None)
@given(st.one_of(arrays, string_arrays), st.booleans())
def test_round_trip_and_tensorflow_agree(array, typed):
    proto = filled(array, typed=typed)
    for back in (from_proto(proto, MB), tf.make_ndarray(proto)):
        assert back.shape == array.shape
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@settings(deadline=None)
@given(st.one_of(arrays, string_arrays))
def test_reads_what_tensorflow_writes(array):
    proto = tf.make_tensor_proto(array)
    np.testing.assert_array_equal(from_proto(proto, MB), array)
    assert proto.dtype == data_type(array.dtype)


def test_answers_use_the_field_of_the_type():
    proto = filled(np.array([1.5, 2.5], np.float32), typed=True)
    assert list(proto.float_val) == [1.5, 2.5]
    assert not proto.tensor_content


@pytest.mark.parametrize("typed", [False, True])
def test_one_shape_in_several_types(typed):
    for dtype in (np.float32, np.int64, np.float32, np.object_):
        array = np.full((2, 3), b"x" if dtype is np.object_ else 1, dtype)
        got = from_proto(filled(array, typed=typed), MB)
        assert (got.dtype, got.tolist()) == (array.dtype, array.tolist())


def test_dimensions_may_have_names():
    for name in ("rows", 1000 * "r"):
        proto = proto_of([2], dtype=tf.float32.as_datatype_enum, float_val=[1, 2])
        proto.tensor_shape.dim[0].name = name
        assert from_proto(proto, MB).tolist() == [1, 2]


def test_the_limit_counts_for_a_shape_that_was_read_before():
    proto = filled(np.zeros(10, np.float32))
    from_proto(proto, 40)
    with pytest.raises(ValueError, match=r"the shape \[10\] exceeds the limit of 39 bytes"):
        from_proto(proto, 39)


def test_missing_elements_repeat_the_last_one():
    one = proto_of([2, 2], dtype=tf.int64.as_datatype_enum, int64_val=[1, 5])
    assert from_proto(one, MB).tolist() == [[1, 5], [5, 5]]
    none = proto_of([2], dtype=tf.string.as_datatype_enum)
    assert from_proto(none, MB).tolist() == [b"", b""]


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (proto_of([1 << 40], dtype=1, float_val=[1.0]), "exceeds the limit"),
        (proto_of([1 << 62, 1 << 62], dtype=1, float_val=[1.0]), "exceeds the limit"),
        (proto_of([1 << 30], dtype=7, string_val=[b"x"]), "exceeds the limit"),
        (proto_of([-1], dtype=1, float_val=[1.0]), "negative dimension"),
        (proto_of([3], dtype=1, tensor_content=b"1234"), "4 bytes of content for 3"),
        (proto_of([1], dtype=1, float_val=[1.0, 2.0]), "values do not fit"),
        (proto_of([1], dtype=7, string_val=[b"a", b"b"]), "2 strings for 1"),
        (proto_of([1], dtype=999), "data type 999"),
        (proto_of([1], dtype=0), "data type 0"),
        (proto_of([1], dtype=20, int_val=[1]), "data type 20"),  # a resource handle
        (proto_of([1], dtype=6, int_val=[300]), "do not fit"),  # int8
        (proto_of([1] * 100, dtype=1, float_val=[1.0]), "do not fit"),
    ],
)
def test_malformed_messages_are_refused(proto, message):
    with pytest.raises(ValueError, match=message):
        from_proto(proto, MB)


def test_unknown_rank_is_refused():
    proto = TensorProto(dtype=1, float_val=[1.0])
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(ValueError, match="unknown rank"):
        from_proto(proto, MB)


def test_the_limit_is_for_all_tensors_together():
    half = filled(np.zeros(100, np.float32))
    assert set(from_protos({"a": half, "b": half}, 800)) == {"a", "b"}
    with pytest.raises(ValueError, match=r"tensor parsing error: b: .*exceeds"):
        from_protos({"a": half, "b": half}, 799)


def test_byte_strings():
    assert byte_strings([["a", b"\xff"]]).tolist() == [[b"a", b"\xff"]]
    assert byte_strings("é").tolist() == "é".encode()
    with pytest.raises(ValueError, match="not a string: 3"):
        byte_strings(["a", 3])
