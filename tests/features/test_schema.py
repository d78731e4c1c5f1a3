"""schema.pbtxt: its fields, and that it reads back."""

import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.schema import read_schema, schema_proto, write_schema
from cmdcm.features.spec import Feature, FeatureSpec

SPEC = FeatureSpec(
    features=(
        Feature(
            name="hour",
            dtype="int64",
            side="context",
            encoding="identity",
            buckets=24,
            table="hour",
            description="local hour",
        ),
        Feature(
            name="kind",
            dtype="string",
            side="context",
            encoding="vocabulary",
            vocabulary=("618", "双11"),
            table="kind",
            default="618",
        ),
        Feature(name="counts", dtype="int64", side="user", shape="vector", length=3, default=-1),
        Feature(name="items", dtype="string", side="user", shape="sequence", length=50),
        Feature(name="price", dtype="float32", side="item", default=0.5),
        Feature(name="bought", dtype="int64", side="label"),
        Feature(name="click_time_ms", dtype="int64", side="meta"),
    )
)


@pytest.fixture
def features() -> dict[str, schema_pb2.Feature]:
    return {feature.name: feature for feature in schema_proto(SPEC).feature}


def test_every_column_in_order_with_its_type(features):
    assert tuple(features) == SPEC.names()
    INT, FLOAT, BYTES = schema_pb2.INT, schema_pb2.FLOAT, schema_pb2.BYTES
    assert [f.type for f in features.values()] == [INT, BYTES, INT, BYTES, FLOAT, INT, INT]


def test_shapes_and_value_counts(features):
    assert features["hour"].HasField("shape") and not features["hour"].shape.dim
    assert [dim.size for dim in features["counts"].shape.dim] == [3]
    assert (features["items"].value_count.min, features["items"].value_count.max) == (0, 50)
    assert not features["items"].HasField("shape")


def test_domains(features):
    hour = features["hour"].int_domain
    assert (hour.min, hour.max, hour.is_categorical) == (0, 23, True)
    assert list(features["kind"].string_domain.value) == ["618", "双11"]
    assert features["price"].WhichOneof("domain_info") is None


def test_presence_and_environments(features):
    assert features["bought"].presence.min_fraction == 1
    assert features["price"].presence.min_fraction == 0
    assert all(feature.presence.min_count == 1 for feature in features.values())
    assert list(schema_proto(SPEC).default_environment) == ["TRAINING", "SERVING"]
    outside = [f.name for f in features.values() if list(f.not_in_environment) == ["SERVING"]]
    assert outside == ["bought", "click_time_ms"]


def test_annotations(features):
    assert list(features["hour"].annotation.tag) == ["side:context", "encoding:identity"]
    assert list(features["hour"].annotation.comment) == ["local hour"]
    assert list(features["bought"].annotation.tag) == ["side:label", "encoding:none"]


def test_representations_carry_the_defaults():
    group = schema_proto(SPEC).tensor_representation_group[""].tensor_representation
    assert set(group) == set(SPEC.names())
    assert group["kind"].dense_tensor.default_value.bytes_value == b"618"
    assert group["price"].dense_tensor.default_value.float_value == 0.5
    assert group["counts"].dense_tensor.default_value.int_value == -1
    assert [dim.size for dim in group["counts"].dense_tensor.shape.dim] == [3]
    assert group["items"].ragged_tensor.feature_path.step == ["items"]


def test_written_schema_reads_back(tmp_path):
    path = tmp_path / "schema.pbtxt"
    write_schema(path, SPEC)
    assert read_schema(path) == schema_proto(SPEC)
    assert "双11" in path.read_text("utf-8")


def test_unusable_schema_files(tmp_path):
    with pytest.raises(DataError, match=r"cannot read schema .*absent"):
        read_schema(tmp_path / "absent")
    (tmp_path / "bad").write_text("feature { nope: 1 }")
    with pytest.raises(DataError, match="bad is not a schema"):
        read_schema(tmp_path / "bad")
