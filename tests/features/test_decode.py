"""The compiled decoder against tf.io.parse_example, protobuf's own parser and bytes by hand."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.features.decode import Decoder, Strings
from cmdcm.features.encode import encode_examples
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import Feature, FeatureSpec

LONG = "n" * 300
SPEC = FeatureSpec(
    features=(
        Feature(name="id", dtype="int64", side="meta", default=-7),
        Feature(name="price", dtype="float32", side="item", default=-1.5),
        Feature(name="kind", dtype="string", side="context", default="né"),
        Feature(name="counts", dtype="int64", side="user", shape="vector", length=3, default=9),
        Feature(name="rates", dtype="float32", side="user", shape="vector", length=2),
        Feature(name="items", dtype="int64", side="user", shape="sequence", length=11, default=-1),
        Feature(name=LONG, dtype="string", side="user", shape="sequence", length=3, default="?"),
        Feature(name="scores", dtype="float32", side="user", shape="sequence", length=4),
    )
)
TAGS = {"int64": 0x1A, "float32": 0x12, "string": 0x0A}


def decode(serialized: list[bytes], spec: FeatureSpec = SPEC) -> dict[str, np.ndarray]:
    columns = Decoder(SPEC, spec.features).decode(serialized)
    return {name: plain(column) for name, column in columns.items()}


def plain(column: Any) -> np.ndarray:
    if not isinstance(column, Strings):
        return column
    return tf.gather(tf.io.parse_tensor(column.proto, tf.string), column.index).numpy()


def by_tensorflow(serialized: list[bytes]) -> dict[str, np.ndarray]:
    parsed = parse_examples(tf.constant(serialized, tf.string, [len(serialized)]), SPEC.features)
    return {name: tensor.numpy() for name, tensor in parsed.items()}


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype, name
        np.testing.assert_array_equal(got[name], values, name)


def varint(value: int, longer: int = 0) -> bytes:
    """A varint; `longer` bytes longer than it need be."""
    value &= 2**64 - 1
    data = bytearray()
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    for _ in range(min(longer, 10 - len(data))):
        data[-1] |= 128
        data.append(0)
    return bytes(data)


def sized(tag: int, content: bytes, longer: int = 0) -> bytes:
    return bytes([tag]) + varint(len(content), longer) + content


def list_of(dtype: str, values: list, packed: bool = True, longer: int = 0) -> bytes:
    """The fields of an Int64List, FloatList or BytesList."""
    if dtype == "string":
        return b"".join(sized(0x0A, value, longer) for value in values)
    numbers = [
        varint(value, longer) if dtype == "int64" else struct.pack("<f", value) for value in values
    ]
    if packed:
        return sized(0x0A, b"".join(numbers), longer) if values else b""
    return b"".join(bytes([0x08 if dtype == "int64" else 0x0D]) + number for number in numbers)


def feature_of(dtype: str, *lists: bytes) -> bytes:
    return b"".join(sized(TAGS[dtype], content) for content in lists)


def entry(name: str, feature: bytes, key_first: bool = True, longer: int = 0) -> bytes:
    parts = [sized(0x0A, name.encode(), longer), sized(0x12, feature, longer)]
    return sized(0x0A, b"".join(parts if key_first else parts[::-1]), longer)


def example(*entries: bytes) -> bytes:
    return sized(0x0A, b"".join(entries))


INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 300)
VALUES = {
    "int64": INTEGERS,
    "float32": st.floats(width=32),
    "string": st.binary(max_size=40) | st.binary(min_size=127, max_size=130),
}


@st.composite
def entries(draw: st.DrawFn, feature: Feature) -> bytes:
    """An entry of a known feature, in any form that the wire format has."""
    low, high = {"scalar": (1, 1), "vector": (feature.length,) * 2, "sequence": (0, 15)}[
        feature.shape
    ]
    values = draw(st.lists(VALUES[feature.dtype], min_size=low, max_size=high))
    longer = draw(st.sampled_from([0, 0, 0, 1, 3]))
    content = list_of(feature.dtype, values, draw(st.booleans()), longer)
    return entry(feature.name, feature_of(feature.dtype, content), draw(st.booleans()), longer)


@st.composite
def protos(draw: st.DrawFn) -> bytes:
    """An example: any features of the spec in any order, some twice, and unknown ones."""
    parts = []
    for feature in draw(st.lists(st.sampled_from(SPEC.features), max_size=12)):
        parts.append(draw(entries(feature)))
    for name in draw(st.lists(st.sampled_from(["", "i", "idd", LONG + "n", "é"]), max_size=2)):
        dtype = draw(st.sampled_from(sorted(TAGS)))
        values = draw(st.lists(VALUES[dtype], max_size=3))
        parts.append(entry(name, feature_of(dtype, list_of(dtype, values))))
    return example(*draw(st.permutations(parts)))


@settings(max_examples=150)
@given(st.lists(protos(), max_size=4))
def test_equals_tensorflow_on_any_example(serialized):
    assert_equal(decode(serialized), by_tensorflow(serialized))


@settings(max_examples=40)
@given(st.data())
def test_equals_tensorflow_on_what_its_own_serializer_writes(data):
    serialized = []
    for _ in range(3):
        made = tf.train.Example()
        for feature in data.draw(st.lists(st.sampled_from(SPEC.features), unique=True)):
            count = feature.length
            if feature.shape == "sequence":
                count = data.draw(st.integers(0, 2 * feature.length))
            values = data.draw(st.lists(VALUES[feature.dtype], min_size=count, max_size=count))
            kind = {"int64": "int64_list", "float32": "float_list", "string": "bytes_list"}
            getattr(made.features.feature[feature.name], kind[feature.dtype]).value.extend(values)
        serialized.append(made.SerializeToString())
    assert_equal(decode(serialized), by_tensorflow(serialized))


def test_equals_tensorflow_on_the_encoders_examples():
    """The fast path: the spec's order, some features null, runs of small and of large numbers."""
    random = np.random.default_rng(0)
    rows = 300
    table = pa.table(
        {
            "id": pa.array(random.integers(-(2**63), 2**63 - 1, rows)),
            "price": pa.array(
                random.normal(size=rows), pa.float32(), mask=random.random(rows) < 0.3
            ),
            "kind": [f"kind {i % 7}" for i in range(rows)],
            "counts": pa.array(random.integers(0, 200, (rows, 3)).tolist()),
            "rates": pa.array(random.random((rows, 2)).tolist(), pa.list_(pa.float32())),
            "items": pa.array(
                [random.integers(0, 10 ** (i % 19), i % 25).tolist() for i in range(rows)],
                pa.list_(pa.int64()),
                mask=random.random(rows) < 0.2,
            ),
            LONG: pa.array([["x" * j for j in range(i % 6)] for i in range(rows)]),
            "scores": pa.array([[0.5] * (i % 7) for i in range(rows)], pa.list_(pa.float32())),
        }
    )
    serialized = list(encode_examples(table))
    expected = by_tensorflow(serialized)
    assert_equal(decode(serialized), expected)
    for feature in SPEC.features:  # the others are passed over
        only = decode(serialized, FeatureSpec(features=(feature,)))
        assert_equal(only, {feature.name: expected[feature.name]})
    assert decode([])["items"].shape == (0, 11)


def test_lists_in_pieces_are_joined_as_protobuf_does():
    """Packed and not, in two fields of a list and in two lists of a feature."""
    pieces = list_of("int64", [1, 300]), list_of("int64", [-2], packed=False), b"\x0a\x00"
    floats = list_of("float32", [1.5]), list_of("float32", [2.5], packed=False)
    strings = list_of("string", [b"a"]), list_of("string", [b"", b"b"])
    serialized = example(
        entry("items", feature_of("int64", b"".join(pieces), list_of("int64", [4, 5]))),
        entry("rates", feature_of("float32", b"".join(floats))),
        entry(LONG, feature_of("string", *strings)),
    )
    values = tf.train.Example.FromString(serialized).features.feature
    assert list(values["items"].int64_list.value) == [1, 300, -2, 4, 5]
    got = decode([serialized])
    assert got["items"].tolist() == [[1, 300, -2, 4, 5] + [-1] * 6]
    assert got["rates"].tolist() == [[1.5, 2.5]]
    assert got[LONG].tolist() == [[b"a", b"", b"b"]]


def test_the_last_kind_of_a_feature_and_the_last_entry_of_a_key_count():
    both = feature_of("float32", list_of("float32", [2.0])) + feature_of(
        "int64", list_of("int64", [5])
    )
    serialized = example(
        entry("id", feature_of("int64", list_of("int64", [4]))),
        entry("id", both),
        entry("items", feature_of("int64", list_of("int64", [1, 2, 3]))),
        entry("items", feature_of("int64", list_of("int64", [8]))),
        entry("price", feature_of("float32", list_of("float32", [3.0]))),
        entry("price", b""),
    )
    assert tf.train.Example.FromString(serialized).features.feature["id"].int64_list.value == [5]
    got = decode([serialized])
    assert got["id"].tolist() == [5]
    assert got["items"].tolist() == [[8] + [-1] * 10]
    assert got["price"].tolist() == [-1.5]  # an empty feature is a missing one


def test_unknown_fields_everywhere_are_passed_over():
    unknown = (
        varint(15 << 3) + varint(2**64 - 1)  # a number
        + varint(15 << 3 | 1) + bytes(8)
        + sized(15 << 3 | 2, b"abc")
        + varint(2000 << 3 | 5) + bytes(4)
    )  # fmt: skip
    content = unknown + list_of("int64", [7]) + unknown
    feature = unknown + feature_of("int64", content) + unknown
    parts = sized(0x0A, b"id") + sized(0x12, feature)
    serialized = unknown + sized(0x0A, unknown + sized(0x0A, parts) + unknown) + unknown
    made = tf.train.Example.FromString(serialized)
    assert list(made.features.feature["id"].int64_list.value) == [7]
    assert decode([serialized])["id"].tolist() == [7]
    # Python's protobuf drops an entry with an unknown field; here it is a message as any other.
    parts = unknown + sized(0x0A, b"id") + unknown + sized(0x12, feature) + unknown
    assert decode([example(sized(0x0A, parts))])["id"].tolist() == [7]


def test_two_features_messages_are_merged():
    one = example(entry("id", feature_of("int64", list_of("int64", [1]))))
    two = example(entry("price", feature_of("float32", list_of("float32", [2.0]))))
    got = decode([one + two])
    assert (got["id"].tolist(), got["price"].tolist()) == ([1], [2.0])


@pytest.mark.parametrize(
    ("name", "dtype", "values", "problem"),
    [
        ("id", "float32", [1.0], "'id' has float32 values, expected int64"),
        ("price", "int64", [1], "'price' has int64 values, expected float32"),
        ("items", "string", [b"a"], "'items' has string values, expected int64"),
        ("kind", "int64", [1], "'kind' has int64 values, expected string"),
        ("id", "int64", [], "'id' has 0 values, expected 1"),
        ("id", "int64", [1, 2], "'id' has 2 values, expected 1"),
        ("counts", "int64", [1, 2], "'counts' has 2 values, expected 3"),
        ("counts", "int64", [0] * 40, "'counts' has 40 values, expected 3"),
        ("rates", "float32", [1.0, 2.0, 3.0], "'rates' has 3 values, expected 2"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_wrong_kinds_and_counts_are_named(name, dtype, values, problem, packed):
    good = example()
    bad = example(entry(name, feature_of(dtype, list_of(dtype, values, packed))))
    with pytest.raises(DataError, match=problem):
        decode([good, bad])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"Key: {name}"):
        by_tensorflow([good, bad])
    others = FeatureSpec(features=tuple(f for f in SPEC.features if f.name != name))
    decode([good, bad], others)  # nobody asked for it


WHOLE = example(
    entry("id", feature_of("int64", list_of("int64", [-1]))),
    entry("rates", feature_of("float32", list_of("float32", [1.0, 2.0], packed=False))),
    entry("kind", feature_of("string", list_of("string", [b"abc"]))),
    entry("unknown", feature_of("int64", list_of("int64", [1] * 20, packed=False))),
    entry("items", feature_of("int64", list_of("int64", [*range(20), 2**40]))),
)


def is_proto(data: bytes) -> bool:
    try:
        tf.train.Example.FromString(data)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_an_example_cut_anywhere_is_refused(cut):
    assert not is_proto(WHOLE[:cut])
    with pytest.raises(DataError, match="record 1 of a batch is no tf"):
        decode([WHOLE, WHOLE[:cut]])


@settings(max_examples=300)
@given(st.data())
def test_changed_bytes_are_refused_or_read_as_protobuf_reads_them(data):
    changed = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decode([bytes(changed)])
    except DataError:
        return
    try:
        features = tf.train.Example.FromString(bytes(changed)).features.feature
    except Exception:  # protobuf also refuses what is nobody's, such as a key that is no UTF-8
        return
    values = list(features["items"].int64_list.value)[:11] if "items" in features else []
    assert got["items"].tolist() == [values + [-1] * (11 - len(values))]
