"""Encoder and TFRecord container, against TensorFlow's own serializer, writer and reader."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import DataError, OutputError
from cmdcm.features import tfrecord
from cmdcm.features.encode import encode_examples, write_tfrecords

INTEGERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-3, 300), st.sampled_from([0, 127, 128, 16383])
)
FLOATS = st.floats(width=32, allow_nan=False)
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy]] = {
    "int64": (pa.int64(), INTEGERS),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "uint16": (pa.uint16(), st.integers(0, 2**16 - 1)),
    "bool": (pa.bool_(), st.booleans()),
    "float32": (pa.float32(), FLOATS),
    "float64": (pa.float64(), FLOATS),
    "string": (pa.string(), st.text(max_size=12)),
    "large_string": (pa.large_string(), st.text(max_size=3)),
    "string_view": (pa.string_view(), st.text(max_size=20)),
    "binary": (pa.binary(), st.binary(max_size=5)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["", "a", "é" * 80])),
}


def reference(row: dict[str, Any], types: dict[str, pa.DataType]) -> bytes:
    """Serializes one row with protobuf itself, keys sorted."""
    example = tf.train.Example()
    example.features.SetInParent()
    for name, value in row.items():
        if value is None:
            continue
        feature = example.features.feature[name]
        type_ = types[name]
        values = value if isinstance(value, list) else [value]
        if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
            feature.int64_list.value.extend(int(v) for v in values)
            feature.int64_list.SetInParent()
        elif pa.types.is_floating(type_):
            feature.float_list.value.extend(values)
            feature.float_list.SetInParent()
        else:
            feature.bytes_list.value.extend(
                v if isinstance(v, bytes) else v.encode() for v in values
            )
            feature.bytes_list.SetInParent()
    return example.SerializeToString(deterministic=True)


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, pa.DataType]]:
    """Draws a table of random types, sliced and chunked, with its columns sorted by name."""
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.text("abcxyz_", min_size=3, max_size=3), max_size=5, unique=True))
    columns, types = {}, {}
    for name in sorted(names):
        type_, values = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        form = draw(st.sampled_from(["scalar", "list", "large_list", "fixed"]))
        types[name] = type_
        if form == "fixed":
            size = draw(st.integers(1, 3))
            values = st.lists(values, min_size=size, max_size=size)
            type_ = pa.list_(type_, size)
        elif form != "scalar":
            values = st.lists(values, max_size=20)
            type_ = pa.list_(type_) if form == "list" else pa.large_list(type_)
        cells = draw(st.lists(st.none() | values, min_size=rows + 3, max_size=rows + 3))
        columns[name] = _array(cells, type_)
    table = pa.table(columns) if columns else pa.table({"": pa.nulls(rows + 3)})
    first = draw(st.integers(0, 3))
    cut = draw(st.integers(0, rows))
    parts = [table.slice(first, cut), table.slice(first + cut, rows - cut)]
    return pa.concat_tables(parts) if draw(st.booleans()) else table.slice(first, rows), types


def _array(cells: list, type_: pa.DataType) -> pa.Array:
    value = getattr(type_, "value_type", None)
    if value is not None and isinstance(value, pa.DictionaryType):  # no direct conversion
        plain = type_.field(0).with_type(pa.string())
        if isinstance(type_, pa.FixedSizeListType):
            return pa.array(cells, pa.list_(plain, type_.list_size))
        return pa.array(cells, pa.list_(plain))
    return pa.array(cells, type_)


@settings(max_examples=300, deadline=None)
@given(tables())
def test_bytes_equal_protobufs_deterministic_serializer(drawn):
    table, types = drawn
    assert list(encode_examples(table)) == [reference(row, types) for row in table.to_pylist()]


def test_golden_bytes():
    table = pa.table(
        {
            "a": pa.array([[1, 300]]),
            "b": pa.array(["xy"]),
            "c": pa.array([1.0], pa.float32()),
            "d": pa.array([-1]),
            "e": pa.array([[]], pa.list_(pa.int64())),
            "f": pa.array([None], pa.int64()),
        }
    )
    entries = (
        "0a 0c 0a 01 61 12 07 1a 05 0a 03 01 ac 02"  # a: packed varints 1, 300 = 0b10_0101100
        "0a 0b 0a 01 62 12 06 0a 04 0a 02 78 79"  # b: one item of two bytes
        "0a 0d 0a 01 63 12 08 12 06 0a 04 00 00 80 3f"  # c: 1.0 = 0x3f800000
        "0a 13 0a 01 64 12 0e 1a 0c 0a 0a ff ff ff ff ff ff ff ff ff 01"  # d: two's complement
        "0a 07 0a 01 65 12 02 1a 00"  # e: present, empty; f is absent
    )
    data = bytes.fromhex(entries)
    assert list(encode_examples(table)) == [b"\x0a" + bytes([len(data)]) + data]


@pytest.mark.parametrize("count", [0, 1, 41, 42, 61, 62, 63, 123, 124, 127, 128, 5000])
@pytest.mark.parametrize("value", [0, 127, 128, 16383, 16384, 2**56 - 1, 2**56, 2**63 - 1, -1])
def test_lists_around_every_length_boundary(count, value):
    table = pa.table({"abc": pa.array([[value] * count, [1], [value] * count])})
    types = {"abc": pa.int64()}
    assert list(encode_examples(table)) == [reference(row, types) for row in table.to_pylist()]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 119, 127, 128, 129, 16384])
def test_long_names_and_strings(length):
    table = pa.table({"n" * length: ["é" * length, None, ""]})
    types = {"n" * length: pa.string()}
    assert list(encode_examples(table)) == [reference(row, types) for row in table.to_pylist()]


def test_float64_is_rounded_and_special_values_are_kept():
    values = [0.1, -0.0, 1e300, float("-inf"), float("nan"), 1e-45]
    table = pa.table({"x": pa.array([values])})
    example = tf.train.Example.FromString(encode_examples(table)[0])
    got = example.features.feature["x"].float_list.value
    expected = np.array([0.1, -0.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    np.testing.assert_array_equal(np.array(got, np.float32), expected)
    assert np.signbit(got[1])


def test_columns_that_are_empty_throughout():
    table = pa.table(
        {
            "null": pa.nulls(2),
            "nulls": pa.nulls(2, pa.list_(pa.int64())),
            "list_of_null": pa.array([[], []], pa.list_(pa.null())),
            "kept": pa.array([7, 8]),
        }
    )
    for encoded, kept in zip(encode_examples(table), [7, 8], strict=True):
        features = tf.train.Example.FromString(encoded).features.feature
        assert list(features) == ["kept"]
        assert features["kept"].int64_list.value[0] == kept


def test_more_rows_than_a_batch_in_uneven_chunks():
    rows = np.arange(20_001)
    table = pa.table({"x": rows, "s": rows.astype(str)})
    chunked = pa.concat_tables([table.slice(0, 8193), table.slice(8193, 3), table.slice(8196)])
    ragged = pa.concat_tables([table.slice(i, 7) for i in range(0, 20_001, 7)])
    expected = list(encode_examples(table))
    assert list(encode_examples(chunked)) == expected
    assert list(encode_examples(ragged)) == expected
    features = tf.train.Example.FromString(expected[19_999]).features.feature
    assert features["x"].int64_list.value == [19_999]
    assert features["s"].bytes_list.value == [b"19999"]


def test_no_rows():
    assert list(encode_examples(pa.table({"x": pa.array([], pa.int64())}))) == []


def test_index_out_of_range():
    with pytest.raises(IndexError):
        encode_examples(pa.table({"x": [1]}))[1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([[1, None]]), "column 'x' has a null inside a list"),
        (pa.array([["a", None], None]), "column 'x' has a null inside a list"),
        (pa.array([2**63], pa.uint64()), "column 'x' does not fit int64"),
        (pa.array([0], pa.timestamp("ms")), r"column 'x' has the type timestamp\[ms\]"),
        (pa.array([[[1]]]), "column 'x' has the type list<"),
    ],
)
def test_columns_that_no_example_holds(array, message):
    with pytest.raises(DataError, match=message):
        encode_examples(pa.table({"x": array}))


def test_null_under_a_null_list_is_no_null_inside_a_list():
    values = pa.array([1, None, 3])
    lists = pa.LargeListArray.from_arrays(
        pa.array([0, 1, 2, 3]), values, mask=pa.array([False, True, False])
    )
    examples = list(encode_examples(pa.table({"xyz": lists})))
    rows = [{"xyz": [1]}, {}, {"xyz": [3]}]
    assert examples == [reference(row, {"xyz": pa.int64()}) for row in rows]


@pytest.fixture
def table() -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table(
        {
            "id": random.integers(-(2**63), 2**63 - 1, 9_000),
            "name": [f"name {i}" * (i % 50) for i in range(9_000)],
        }
    )


def test_file_equals_tensorflows_writer(table, tmp_path):
    assert write_tfrecords(tmp_path / "ours", [table.slice(0, 5_000), table.slice(5_000)]) == 9_000
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for example in encode_examples(table):
            writer.write(example)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_tensorflow_reads_what_we_write(table, tmp_path, compress):
    path = tmp_path / "part"
    write_tfrecords(path, iter([table]), gzip=compress)
    kind = "GZIP" if compress else None
    read = [r.numpy() for r in tf.data.TFRecordDataset(str(path), kind).take(200)]
    assert read == list(encode_examples(table.slice(0, 200)))
    assert list(tfrecord.read_records(path)) == list(encode_examples(table))
    assert tfrecord.verify(path) == 9_000
    assert tfrecord.is_gzip(path) == compress


def test_equal_tables_give_equal_gzip_bytes(table, tmp_path):
    for name in ("one", "two"):
        write_tfrecords(tmp_path / name, [table], gzip=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_concatenated_gzip_members(tmp_path):
    for i in range(3):
        write_tfrecords(tmp_path / f"{i}", [pa.table({"x": [i]})], gzip=True)
    joined = tmp_path / "joined"
    joined.write_bytes(b"".join((tmp_path / f"{i}").read_bytes() for i in range(3)))
    assert tfrecord.verify(joined) == 3
    assert len(list(tf.data.TFRecordDataset(str(joined), "GZIP"))) == 3


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "part"
    write_tfrecords(path, [pa.table({"x": [1]})])
    before = path.read_bytes()

    def tables():
        yield pa.table({"x": [2]})
        raise DataError("upstream")

    with pytest.raises(DataError, match="upstream"):
        write_tfrecords(path, tables())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["part"]


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="part"):
        write_tfrecords(tmp_path / "file" / "part", [pa.table({"x": [1]})])
